"""Command line shared by the scripts that prepare data sets."""
import os

from data.common import command_line

_DATA = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))   # where training.py looks


def parser(description, outputs='images/ and labels/'):
    """-> command_line.Parser with --outdir and --workers; outputs: contents of the folder, for the help"""
    parser = command_line.Parser(description=description)
    parser.add_argument('-o', '--outdir', default=_DATA, help=f'Folder for {outputs}.')
    parser.add_argument('--workers', type=command_line.workers, default=os.cpu_count(),
                        help='Number of threads that decode and encode pictures, at most 4 per core.')
    return parser
