"""How fast each stage is here, what bounds a job, and what would help."""
