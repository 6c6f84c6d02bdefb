"""What the README files name exists: files that they link to, scripts of their commands, and the flags of those."""
import os
import re

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


@pytest.mark.parametrize('page', PAGES)
def test_commands_have_scripts_and_flags_that_exist(page):
    text = read(page).replace('\\\n', ' ')
    wrong = []
    for script, arguments in re.findall(r'python ((?:\w+/)?\w+\.py)([^`\n#&|]*)', text):
        source = read(script) if os.path.exists(os.path.join(ROOT, script)) else ''
        wrong += [(script, flag) for flag in re.findall(r'(?<= )--[a-z-]+', arguments + ' --help')
                  if flag != '--help' and f"'{flag}'" not in source or not source]
    assert wrong == []
