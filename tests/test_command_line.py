"""data/common/command_line.py: flag types, one-line errors and exit statuses."""
import argparse
import errno
import os
import re
import signal
import sys

import pytest

from data.common import command_line
from data.common.command_line import InputError


@pytest.mark.parametrize('kind, text, value', [
    ('positive_int', '1', 1), ('positive_int', '2147483647', 2 ** 31 - 1), ('non_negative_int', '0', 0),
    ('positive_float', '1e-4', 1e-4), ('positive_float', '1e18', 1e18), ('non_negative_float', '0', 0.),
    ('bandwidth', '0.7', 0.7), ('share', '1', 1.), ('workers', '3', 3), ('number_of_pictures', '9', 9)])
def test_flag_types_accept_sane_values(kind, text, value):
    assert getattr(command_line, kind)(text) == value


@pytest.mark.parametrize('kind, texts', [
    ('positive_int', ['0', '-1', '1.5', 'nan', '', 'many', '9' * 5000, '9' * 400, '2147483648']),
    ('non_negative_int', ['-1', '0.5', 'inf', '2147483648']),
    ('positive_float', ['0', '-0.1', 'nan', 'inf', '1e400', '', 'x', '1e39', '1e20', '1e-46']),
    ('non_negative_float', ['-1e-9', 'nan', '-inf', 'inf', '1e308', '1e20']),
    ('bandwidth', ['0', 'nan', '1e7', '1e-7']), ('share', ['1.1', '-0.1']), ('workers', ['0']),
    ('number_of_pictures', ['0', '1000001'])])
def test_flag_types_reject_nonsense(kind, texts):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=r'is not a (whole )?number from [\w.-]+ to [\w.+]+$'):
            getattr(command_line, kind)(text)


def test_threads_are_limited_by_the_cores():
    assert command_line.workers('30000') == command_line.MAX_WORKERS and command_line.workers('0', least=0) == 0


@pytest.mark.parametrize('args, culprit', [
    (['in', '--epochs', 'two\nlines'], '--epochs'), (['--outdir', '', 'in'], '--outdir: is empty; give a name'),
    ([''], 'folder: is empty; give a name'), ([], 'folder')])
def test_parser_reports_one_line_with_status_2(args, culprit, capsys):
    parser = command_line.Parser(prog='script.py')
    parser.add_argument('folder')
    parser.add_argument('--epochs', type=command_line.positive_int)
    parser.add_argument('-o', '--outdir', default='out')
    assert parser.parse_args(['in']).outdir == 'out'
    with pytest.raises(SystemExit) as end:
        parser.parse_args(args)
    assert end.value.code == 2
    assert re.fullmatch(rf'script.py: error: .*{culprit}.* \(see script.py --help\)\n', capsys.readouterr().err)


def test_help_shows_defaults_but_not_empty_ones():
    parser = command_line.Parser(prog='script.py', description='First.\n\n    a command\n')
    parser.add_argument('--epochs', default=50, help='Passes over the data.')
    parser.add_argument('--dir', help='A folder.')
    parser.add_argument('--fast', action='store_true', help='Hurry.')
    text = parser.format_help()
    assert '(default: 50)' in text and text.count('default') == 1 and '\n    a command\n' in text


def fail_with(error):
    def main():
        raise error
    return main


@pytest.mark.parametrize('main, status, message', [
    (lambda: None, None, ''), (lambda: 3, 3, ''),
    (fail_with(InputError('photo.jpg: is\nempty')), 1, 'script.py: error: photo.jpg: is empty\n'),
    (fail_with(OSError(errno.ENOSPC, 'No space left', 'a.png')), 1, 'script.py: error: a.png: No space left\n'),
    (fail_with(OSError('odd')), 1, 'script.py: error: odd\n'),
    (fail_with(MemoryError()), 1, 'script.py: error: out of memory\n'),
    (fail_with(InputError('\x1b[2J\udcffé.jpg')), 1, 'script.py: error: \\x1b[2J\\udcffé.jpg\n'),
    (fail_with(KeyboardInterrupt()), 130, 'script.py: interrupted\n'),
    (fail_with(KeyboardInterrupt('resume with --x')), 130, 'script.py: resume with --x\n'),
    (lambda: command_line.warn('two\nlines'), None, 'script.py: warning: two lines\n')])
def test_run_ends_with_one_line_and_a_status(main, status, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['folder/script.py'])
    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    assert (end.value.code, capsys.readouterr().err) == (status, message)


def test_run_does_not_hide_bugs():
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda: 1 / 0)


def test_sigterm_runs_finally_blocks_and_ends_with_143():
    cleaned = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)
    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    assert end.value.code == 143 and cleaned
