"""data/common/command_line.py: flag types, one-line complaints and exit statuses."""

import argparse
import ast
import contextlib
import errno
import glob
import io
import os
import re
import signal
import subprocess
import sys

import pytest

import inference
import training
from conftest import ROOT
from data import cvppp_dataset_processing, tusimple_dataset_processing
from data.common import command_line


@pytest.mark.parametrize('kind, text, value', [
    (command_line.positive_int, '1', 1),
    (command_line.positive_int, '2147483647', 2 ** 31 - 1),
    (command_line.non_negative_int, '0', 0),
    (command_line.positive_float, '1e-4', 1e-4),
    (command_line.positive_float, '1e18', 1e18),
    (command_line.non_negative_float, '0', 0.),
    (command_line.bandwidth, '0.7', 0.7),
])
def test_flag_types_take_sane_values(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize('kind, texts', [
    (command_line.positive_int, ['0', '-1', '1.5', 'nan', '', 'many', '9' * 5000, '9' * 400, '2147483648']),
    (command_line.non_negative_int, ['-1', '0.5', 'inf', '2147483648']),
    # float32 ends at 3e38, and some are squared
    (command_line.positive_float, ['0', '-0.1', 'nan', 'inf', '1e400', '', 'x', '1e39', '1e20', '1e-46']),
    (command_line.non_negative_float, ['-1e-9', 'nan', '-inf', 'inf', '1e308', '1e20']),
    (command_line.bandwidth, ['0', 'nan', '1e7', '1e-7']),
])
def test_flag_types_refuse_nonsense(kind, texts):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=r'is not a (whole )?number from [\w.-]+ to [\w.+]+$'):
            kind(text)


def test_threads_are_limited_by_the_cores():
    assert command_line.workers('3') == 3 and command_line.workers('0', least=0) == 0
    assert command_line.workers('30000') == command_line.MAX_WORKERS <= 4 * os.cpu_count()
    with pytest.raises(argparse.ArgumentTypeError):
        command_line.workers('0')


@pytest.mark.parametrize('parse, args', [
    (training.parse_flags, []), (inference.parse_flags, []), (tusimple_dataset_processing.parse_args, ['in']),
    (cvppp_dataset_processing.parse_args, ['in'])], ids=['training', 'inference', 'tusimple', 'cvppp'])
def test_no_script_starts_thousands_of_threads(parse, args):
    assert parse([*args, '--workers', '30000']).workers == command_line.MAX_WORKERS


def test_parser_complains_in_one_line_with_status_2(capsys):
    parser = command_line.Parser(prog='script.py')
    parser.add_argument('--epochs', type=command_line.positive_int)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['--epochs', 'two\nlines'])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert message.count('\n') == 1 and message.startswith('script.py: error: ') and '--epochs' in message


@pytest.mark.parametrize('args, culprit', [(['--outdir', '', 'in'], '--outdir'), (['-o', '', 'in'], '--outdir'),
                                           ([''], 'folder')])
def test_empty_name_is_refused_in_one_line(args, culprit, capsys):
    parser = command_line.Parser(prog='script.py')
    parser.add_argument('folder')
    parser.add_argument('-o', '--outdir', default='out')
    assert parser.parse_args(['in']).outdir == 'out'
    with pytest.raises(SystemExit) as end:
        parser.parse_args(args)
    assert end.value.code == 2
    assert re.fullmatch(f'script.py: error: argument .*{culprit}: is empty; give a name .*\n', capsys.readouterr().err)


def test_help_shows_defaults_but_not_empty_ones():
    parser = command_line.Parser(prog='script.py', description='First.\n\n    a command\n')
    parser.add_argument('--epochs', default=50, help='Passes over the data.')
    parser.add_argument('--dir', help='A folder.')
    parser.add_argument('--fast', action='store_true', help='Hurry.')
    text = parser.format_help()
    assert '(default: 50)' in text and text.count('default') == 1
    assert '\n    a command\n' in text


def end_of(main, capsys):
    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize('error, status, words', [
    (command_line.InputError('photo.jpg: is\nempty'), 1, 'error: photo.jpg: is empty'),
    (OSError(errno.ENOSPC, 'No space left', 'out.png'), 1, 'error: out.png: No space left'),
    (OSError('odd'), 1, 'error: odd'),
    (MemoryError('Unable to allocate 9. TiB'), 1, 'error: there is not enough memory'),
    (command_line.InputError('\x1b[2J\udcffé.jpg: is empty'), 1, r'error: \x1b[2J\udcffé.jpg: is empty'),
    (KeyboardInterrupt(), 130, 'interrupted'),
    (KeyboardInterrupt('resume with --x'), 130, 'resume with --x'),
])
def test_run_ends_with_one_line_and_a_status(error, status, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['folder/script.py'])

    def main():
        raise error
    assert end_of(main, capsys) == (status, f'script.py: {words}\n')


def test_run_passes_on_the_status_of_main(capsys):
    assert end_of(lambda: None, capsys)[0] in (None, 0)
    assert end_of(lambda: 3, capsys)[0] == 3


def test_what_stdout_cannot_encode_is_escaped(capsys, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(raw, 'ascii'))
    assert end_of(lambda: print('o\xfc'), capsys)[0] in (None, 0)
    assert raw.getvalue() == b'o\\xfc\n'


def test_run_does_not_hide_mistakes_of_the_program():
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda: 1 / 0)


def test_warn_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['script.py'])
    command_line.warn('two\nlines')
    assert capsys.readouterr().err == 'script.py: warning: two lines\n'


LONG = 'photo.png: ' + 'x' * 10 ** 5 + '\x1b' * 300 + '; rename it'


def fail():
    raise command_line.InputError(LONG)


@pytest.mark.parametrize('act', [
    lambda: command_line.warn(LONG), lambda: command_line.run(fail),
    lambda: command_line.Parser(prog='script.py').error(LONG)], ids=['warning', 'error', 'flags'])
def test_a_long_message_keeps_its_beginning_and_its_end(act, capsys):
    with contextlib.suppress(SystemExit):
        act()
    line = capsys.readouterr().err
    assert len(line) < 600 and 'photo.png: xx' in line and '...' in line and '; rename it' in line


def python(code):
    return subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_sigterm_cleans_up_and_ends_with_143(tmp_path):
    code = f'''
import signal
from data.common import command_line
def main():
    try:
        print('ready', flush=True)
        signal.pause()
    finally:
        open({str(tmp_path / 'cleaned')!r}, 'w').close()
command_line.run(main)
'''
    process = python(code)
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and err == '' and os.path.exists(tmp_path / 'cleaned')


# Prints while its file is open, once as libraries do.
PRINTER = """
import contextlib, os, sys
from data.common import command_line
def main():
    with open(sys.argv[1], 'w') as file:
        for _ in range(3):
            print('line', flush=True)
            command_line.warn('careful')
        with contextlib.suppress(OSError):
            os.write(1, b'noise')
        print('x' * 10 ** 5)
        file.write('all of it')
command_line.run(main)
"""


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('redirection, status, lines', [
    ('>&-', 0, 3), ('2>&-', 0, 0), ('>&- 2>&-', 0, 0), ('<&- >&- 2>&-', 0, 0), ('>/dev/full', 1, 4),
    ('2>/dev/full', 0, 0), ('>/dev/full 2>/dev/full', 1, 0), ('>&{gone}', 0, 3), ('>&{gone} 2>&1', 0, 0)])
def test_work_is_done_whatever_its_streams_are(tmp_path, redirection, status, lines, unbuffered):
    """lines: how many arrive on stderr. gone: a pipe without a reader."""
    reader, gone = os.pipe()
    os.close(reader)
    try:
        command = f'"$0" -c "$1" "$2" {redirection.format(gone=gone)}'
        process = subprocess.run(['bash', '-c', command, sys.executable, PRINTER, tmp_path / 'out'], pass_fds=[gone],
                                 env={**os.environ, 'PYTHONUNBUFFERED': unbuffered}, cwd=ROOT,
                                 capture_output=True, text=True)
    finally:
        os.close(gone)
    assert (process.returncode, process.stderr.count('\n')) == (status, lines), process.stderr
    assert (tmp_path / 'out').read_text() == 'all of it'
    if status and lines:
        assert process.stderr.endswith('error: stdout: No space left on device\n')


def test_all_that_is_printed_arrives_at_a_slow_reader(tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([sys.executable, '-uc', PRINTER, tmp_path / 'out'], cwd=ROOT, stdout=writer,
                               stderr=subprocess.DEVNULL)
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == 'line\n' * 3 + 'noise' + 'x' * 10 ** 5 + '\n'
    assert process.wait(30) == 0


@pytest.mark.parametrize('script, module', [
    ('training.py', 'cv2'), ('inference.py', 'cv2'), ('inference.py', 'concurrent'),
    ('data/tusimple_dataset_processing.py', 'concurrent'), ('data/tusimple_evaluation.py', 'csv'),
    ('data/synthetic_dataset.py', 'concurrent')])
def test_ctrl_c_during_imports_is_one_line(tmp_path, script, module):
    (tmp_path / f'{module}.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n')
    process = subprocess.run([sys.executable, os.path.join(ROOT, script), '--help'], capture_output=True, text=True,
                             env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert (process.returncode, process.stderr) == (130, f'{os.path.basename(script)}: interrupted\n')


@pytest.mark.parametrize('script', ['training.py', 'inference.py', 'data/cvppp_dataset_processing.py'])
@pytest.mark.parametrize('failure, library', [
    ("ImportError('libx.so: failed to map segment from shared object')", 'libx.so'), ('MemoryError', 'the libraries'),
    ("ImportError('See the manual.\\nIt is long.') from ImportError('libx.so: failed to map segment')", 'libx.so')])
def test_library_without_memory_for_it_is_one_line(tmp_path, script, failure, library):
    (tmp_path / 'cv2.py').write_text(f'raise {failure}\n')
    process = subprocess.run([sys.executable, os.path.join(ROOT, script)], capture_output=True, text=True,
                             env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert process.returncode == 1 and process.stderr == (
        f'{os.path.basename(script)}: error: there is not enough memory to load {library}\n')


def test_other_failures_of_imports_keep_their_traceback(tmp_path):
    (tmp_path / 'cv2.py').write_text("raise ImportError('numpy is too old')\n")
    process = subprocess.run([sys.executable, os.path.join(ROOT, 'inference.py')], capture_output=True, text=True,
                             env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert process.stderr.startswith('Traceback') and process.stderr.endswith('ImportError: numpy is too old\n')


def test_ctrl_c_after_imports_lets_main_clean_up():
    code = """
import os, signal
from data.common import command_line
command_line.exit_on_interrupt()
def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print('cleaned up')
command_line.run(main)
"""
    process = python(code)
    assert process.communicate() == ('cleaned up\n', '-c: interrupted\n') and process.returncode == 130


@pytest.mark.parametrize('path', sorted(glob.glob(os.path.join(ROOT, '*.py'))), ids=os.path.basename)
def test_no_constant_of_a_module_is_given_two_values(path):
    with open(path) as file:
        tree = ast.parse(file.read())
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = [name.id for target in targets for name in getattr(target, 'elts', [target]) if isinstance(name, ast.Name)]
    assert len(names) == len(set(names))
