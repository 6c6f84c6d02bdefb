"""What the README files name exists: files that they link to, scripts of their commands, and the flags of those."""
import functools
import importlib
import os
import re

import pytest

from conftest import ROOT

PAGES = ['README.md', 'data/README.md', 'tests/README.md', 'trained_model/README.md', 'trained_model/leaves/README.md',
         'trained_model/any_camera/README.md', '.github/CONTRIBUTING.md']


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as file:
        return file.read()


@functools.lru_cache
def flags_of(script):
    """-> names of the flags in the parser's own help; of a test script, that has no main(argv), in its source"""
    if not os.path.exists(os.path.join(ROOT, script)):
        return {'no such script'}
    if script.startswith('tests/'):
        return set(re.findall(r"'(-[a-z]|--[a-z-]+)'", read(script)))
    parser = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('argparse.ArgumentParser.exit', lambda self, *_: parser.append(self) or os.strerror(self))
        with pytest.raises(TypeError):
            importlib.import_module(script[:-3].replace('/', '.')).main(['--help'])
    return set(parser[0]._option_string_actions)


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r'\]\((?!http)([^)#]+)', read(page))
    assert [link for link in links if not os.path.exists(os.path.join(ROOT, os.path.dirname(page), link))] == []
