import sys,json,shutil,os,io
from pathlib import Path
sys.path.insert(0,'/tmp/rev2/five')
from tests.golden_runs import model_folder
import inspect; print(inspect.signature(getattr(model_folder,'__wrapped__',model_folder)))
