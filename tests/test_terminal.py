"""Readers that go away, and disks that are full."""

import io
import os
import subprocess
import sys

import pytest

from raylatent.terminal import write_line

CALL = "import sys; from raylatent.cli import main; raise SystemExit(main())"


def ended_with(argv, code, reader="true", program=CALL):
    """What is on stderr of a program whose stdout is read by another one."""
    shell = f'"$@" | {reader}; echo "${{PIPESTATUS[0]}}" >&2'
    command = ["bash", "-c", shell, "-", sys.executable, "-c", program, *argv]
    ended = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, timeout=100
    )
    *lines, status = ended.stderr.splitlines()
    assert status == str(code), ended.stderr
    return lines


@pytest.mark.parametrize("argv", [["--help"], ["atlas", "--help"], ["--version"]])
def test_a_reader_that_goes_away_is_no_error(argv):
    assert ended_with(argv, 0) == []


def test_work_goes_on_without_a_reader(tmp_path):
    program = (
        "import logging, sys, time\n"
        "from raylatent import cli\n"
        "from raylatent.terminal import fail, say\n"
        "from raylatent.cli.verbs import VERBS\n"
        "from raylatent.engine.progress import Progress\n"
        "def work(config):\n"
        "    for i in range(200):\n"
        "        say('x' * 1000)\n"
        "        logging.getLogger('raylatent').warning('y%d', i)\n"
        "        time.sleep(0.001)\n"
        "    with Progress('work', 3) as shown:\n"
        "        shown.add(3)\n"
        "    open(sys.argv[1], 'w').close()\n"
        "    return fail('one failed', 1)\n"
        "VERBS['layers'] = (VERBS['layers'][0], work)\n"
        "raise SystemExit(cli.main(['layers', 'x']))\n"
    )
    done = tmp_path / "done"
    program = f"import os; os.dup2(1, 2)\n{program}"  # as 2>&1 does
    assert ended_with([str(done)], 1, "head -1 >&2", program) == ["x" * 1000]
    assert done.exists()


def test_what_moves_the_cursor_is_written_out():
    stream = io.StringIO()
    write_line("maps/a\nverified \x1b[2K\r\u202e\udcff、\u3000é", stream)
    assert stream.getvalue() == (
        "maps/a\\nverified \\x1b[2K\\r\\u202e\\udcff、\u3000é\n"
    )


def test_a_full_disk_is_an_error():
    assert ended_with(["--help"], 1, program=f"import os\n{FULL}{CALL}") == [
        "raylatent: error: the standard output cannot be written: No space left on device"
    ]


FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"


def test_without_stdout_and_stderr_verbs_work():
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shell = f'"$@" {closed}'
        command = ["bash", "-c", shell, "-", sys.executable, "-c", CALL, "--help"]
        assert subprocess.run(command, check=False).returncode == 0  # noqa: S603


def test_a_terminal_that_was_closed_is_no_error():
    leader, follower = os.openpty()
    with open(follower, "w") as stream:  # noqa: PTH123
        os.close(leader)
        write_line("nobody reads it", stream)


def test_names_of_files_are_shown_and_not_obeyed():
    stream = io.StringIO()
    write_line("a\x1b[2J\x9b1m\r\x07.png \udcff é\tline\nline", stream)
    lines = r"a\x1b[2J\x9b1m\r\x07.png \udcff é\tline\nline" + "\n"
    assert stream.getvalue() == lines
