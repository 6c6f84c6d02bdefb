"""What the README files mention exists: linked files, the scripts of commands, and their flags."""
import ast
import importlib
import os
import pathlib
import re
import sys

import pytest

from conftest import ROOT

PAGES = ['README.md', 'data/README.md', 'tests/README.md', 'trained_model/README.md', 'trained_model/leaves/README.md',
         'trained_model/any_camera/README.md', '.github/CONTRIBUTING.md']


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as file:
        return file.read()


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r'\]\((?!http)([^)#]+)', read(page))
    assert [link for link in links if not os.path.exists(os.path.join(ROOT, os.path.dirname(page), link))] == []


def test_commands_have_scripts_and_flags_that_exist(run_script):
    used = {}
    for page in PAGES:
        for script, arguments in re.findall(r'python ((?:\w+/)?\w+\.py)([^`\n#&|]*)', read(page).replace('\\\n', ' ')):
            used.setdefault(script, set()).update(re.findall(r'(?<!\S)--?[a-z][a-z-]*', arguments))
    assert sorted(script for script in used if not os.path.exists(os.path.join(ROOT, script))) == []
    unknown = []
    for script, flags in filter(lambda item: item[1], used.items()):
        module = importlib.import_module(script.removeprefix('tests/')[:-len('.py')].replace('/', '.'))
        outcome = run_script(module, '--help')
        assert outcome.status == 0, script
        known = re.findall(r'(?<![\w-])--?[a-z][a-z-]*', outcome.out)
        unknown += [(script, flag) for flag in sorted(flags.difference(known))]
    assert unknown == []


def test_imported_packages_are_declared():
    names = {'cv2': 'opencv-python-headless', 'PIL': 'pillow', 'sklearn': 'scikit-learn'}
    declared = re.findall(r'^[\w-]+', read('requirements.txt').lower(), re.MULTILINE)
    paths = [*pathlib.Path(ROOT).glob('*.py'), *pathlib.Path(ROOT, 'data').rglob('*.py')]
    own = {'data', *(path.stem for path in paths)}
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))]
    modules = {alias.name.split('.')[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module.split('.')[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {names.get(module, module) for module in modules - own - sys.stdlib_module_names} - {*declared} == set()
