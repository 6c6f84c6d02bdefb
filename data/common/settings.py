"""The settings of a training run and of the model that it makes: one record from which all else is read off.

A field of `Settings` has a default, a sentence and its uses: its flag, if it has one; whether it is `recorded` in the
conventions.json next to a checkpoint, for readers of the weights; whether it is `inherited` from the model of
--modeldir; and whether it is `free` to differ when a run resumes. Imports no TensorFlow.
"""
import argparse
import dataclasses
import json
import os

from data.common import command_line, files
from data.common.command_line import InputError

CONVENTIONS_FILE = 'conventions.json'
VERSION = 3                 # of the record
_MAX_BYTES = 2 ** 20        # of a record, which has 1 kB
_MAX_PIXELS = 2 ** 24       # of an image, for memory
_SPAN = 8.   # of an image's longer side in the embedding where the coordinates' weights start, in units of 2 delta_d
_NUMBER, _POSITIVE = command_line.non_negative_float, command_line.positive_float


def _setting(default, sentence, *flags, group=None, uses=('recorded',), **argument):
    """A field. argument: of argparse's add_argument; its `type` and `choices` hold for the record as well."""
    metadata = {'help': sentence, 'flags': flags, 'group': group, 'uses': uses, 'argument': argument}
    return dataclasses.field(default=default, metadata=metadata)


def _model(default, sentence, *flags, group='loss', **argument):
    return _setting(default, sentence, *flags, group=group, uses=('recorded', 'inherited', 'embedding'), **argument)


def _run(default, sentence, *flags, uses=(), **argument):
    return _setting(default, sentence, *flags, group='optimisation', uses=uses, **argument)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The defaults are those of a new run; OF_2018 has those of a checkpoint without a record."""
    image_size: tuple = _setting((512, 512), 'Width and height that images are resized to, in px, multiples of 8.',
                                 '--image-size', group='network', uses=('recorded', 'inherited'), nargs=2,
                                 metavar=('W', 'H'), type=command_line.image_side)
    normalisation: str = _setting('signed', 'Of RGB 0..255: none, or signed, to -1..1.', choices=('none', 'signed'))
    head: str = _setting('Instance', 'Train the first stage of 2018 instead: lane or background, by cross entropy.',
                         '--semantic', group='loss', action='store_const', const='Semantic',
                         choices=('Instance', 'Semantic'))
    feature_dim: int = _model(3, 'Dimensions of the embedding.', '--feature-dim', group='network',
                              type=command_line.feature_dim)
    head_activation: str = _setting('none', 'After the head: none or relu.', choices=('none', 'relu'))
    batch_statistics: bool = _setting(False, 'At inference: where the moving averages were never updated.')
    dropout_at_inference: bool = _setting(False, 'As in the graph of 2018, by mistake.')
    kind: str = _setting('road', 'Kind of images, which selects augmentation and score: road (lanes) or any.', '--kind',
                         group='network', choices=('road', 'any'))
    coordinates: bool = _model(False, 'Add pixel coordinates to the embedding, which separates instances that look '
                               'alike; needs --background-weight 0.', '--coordinates', group='network',
                               action=argparse.BooleanOptionalAction)
    var: float = _model(1., 'Weight of the variance term, alpha in the paper.', '--var', type=_NUMBER)
    dist: float = _model(1., 'Weight of the distance term, beta in the paper.', '--dist', type=_NUMBER)
    reg: float = _model(1., 'Weight of the regularisation term, gamma in the paper; 0.001 in the paper and in 2018.',
                        '--reg', type=_NUMBER)
    delta_v: float = _model(0.5, 'Margin of the variance term, in units of the embedding; below --ddist.', '--dvar',
                            type=_POSITIVE)
    delta_d: float = _model(1.5, 'Margin of the distance term, in units of the embedding.', '--ddist', type=_POSITIVE)
    background_weight: float = _model(1., 'Weight of the background in the variance term, where each lane has 1; at 0 '
                                      'the background is no instance, as in the paper.', '--background-weight',
                                      type=_NUMBER)
    foreground_weight: float = _model(0., 'Weight of the cross entropy of a head that separates foreground from '
                                      'background, or the classes; at 0 there is no such head.', '--foreground-weight',
                                      type=_NUMBER)
    foreground_threshold: float = _model(0.5, 'Probability from which a pixel is foreground.',
                                         '--foreground-threshold', type=command_line.share)
    bandwidth: float = _model(0.7, 'Bandwidth of mean shift in validation and inference, in units of the embedding.',
                              '--bandwidth', type=command_line.bandwidth)
    classes: tuple = _model((), 'Names of the classes 1, 2, ..., which the foreground head predicts.')
    min_confidence: float = _setting(0., 'Instances below this confidence are left out.',
                                     uses=('recorded', 'inherited'), type=command_line.share)
    # Only of the run:
    recipe: str = _run('2018', '', choices=('2018', 'fast', 'any'))
    modeldir: str = _run('', '')
    epochs: int = _run(50, 'Passes over the training images.', '--epochs', uses=('free',),
                       type=command_line.positive_int)
    batch_size: int = _run(1, 'Images per step, of each process.', '--batch-size', type=command_line.positive_int)
    learning_rate: float = _run(1e-4, 'Highest learning rate of Adam.', '--learning-rate', type=_POSITIVE)
    schedule: str = _run('2018', 'Learning-rate schedule: 2018, times 0.96 every 5,000 steps; or cosine, to 0 after a '
                         'warm-up of a twentieth of all steps.', '--schedule', choices=('2018', 'cosine'))
    augment: bool = _run(True, 'Warp and recolour images at random.', '--augment',
                         action=argparse.BooleanOptionalAction)
    ignore: int = _run(None, 'Value of ignored pixels in the labels, e.g. 255; they count in no loss and no score.',
                       '--ignore', type=command_line.non_negative_int)
    seed: int = _run(42, 'Seed of the initial weights, the order of images, augmentation and dropout.', '--seed',
                     type=command_line.non_negative_int)
    photos: tuple = _run((), '')   # numbers of images, a checksum of their names and sizes

    @property
    def heads(self):
        """The scopes of the heads -> {scope: channels}."""
        depth = 1 + max(1, len(self.classes))
        return {self.head: self.feature_dim, **({'Semantic': depth} if self.foreground_weight else {})}

    @property
    def clusters_foreground(self):
        """Whether the foreground head selects the pixels to cluster: with classes only if the embedding cannot."""
        return bool(self.foreground_weight and not (self.classes and self.background_weight))

    def reach(self, scope):
        """The `reach` of a head, see `utils.build_head`. -> float, 0 for a head without coordinates"""
        return _SPAN * self.delta_d if self.coordinates and scope == 'Instance' else 0.

    def check(self, source):
        """Raises InputError, starting with `source`, where settings are inconsistent or not computable."""
        width, height = self.image_size
        for problem, text in (
                (width % 8 or height % 8, f'--image-size: {width} {height} are not both multiples of 8'),
                (width * height > _MAX_PIXELS, f'--image-size: {width} {height} is too large'),
                (self.delta_v >= self.delta_d, f'--dvar: {self.delta_v:g} is not below --ddist, {self.delta_d:g}'),
                (self.head == 'Semantic' and (self.foreground_weight or self.coordinates),
                 '--semantic: has neither --foreground-weight nor --coordinates'),
                (not (self.var or self.dist or self.reg or self.foreground_weight),
                 '--var: with all weights 0 there is nothing to learn'),
                (self.coordinates and self.background_weight,
                 '--coordinates: the background, which is everywhere, cannot be an instance; give '
                 '--background-weight 0'),
                (self.classes and not self.foreground_weight,
                 '--foreground-weight: at 0 no head learns the classes; leave it out, or give --classes an empty file'),
                (self.kind == 'road' and not (self.background_weight or self.foreground_weight),
                 '--background-weight: at 0 nothing separates the background; give a --foreground-weight')):
            if problem:
                raise InputError(f'{source}{text}')


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
OF_2018 = Settings(normalisation='none', head_activation='relu', batch_statistics=True, dropout_at_inference=True,
                   bandwidth=1.)
RECIPES = {   # defaults in the place of those above
    '2018': {},
    'fast': {'batch_size': 4, 'image_size': (512, 256), 'schedule': 'cosine', 'learning_rate': 3e-3, 'reg': 0.001,
             'background_weight': 6., 'bandwidth': 0.75},
    'any': {'kind': 'any', 'batch_size': 4, 'image_size': (256, 256), 'feature_dim': 4, 'coordinates': True,
            'schedule': 'cosine', 'learning_rate': 3e-3, 'reg': 0.001, 'background_weight': 0.,
            'foreground_weight': 2., 'bandwidth': 1.},
}


def names_of(use):
    """-> the names of the settings that are 'recorded', 'inherited' or 'free'"""
    return [name for name, field in FIELDS.items() if use in field.metadata['uses']]


# ---- Flags -----------------------------------------------------------------------------------------------------------

def add_flags(parser):
    """Adds the flags of the settings, in their groups. What is not given is absent from the parsed flags."""
    groups = {}
    for name, field in FIELDS.items():
        title, argument, sentence = (field.metadata[key] for key in ('group', 'argument', 'help'))
        if not field.metadata['flags']:
            continue
        if 'action' in argument:
            argument = {key: value for key, value in argument.items() if key != 'choices'}
        else:
            default = 'road if --srcdir has lanes.json, otherwise any' if name == 'kind' else _as_text(field.default)
            sentence += f' (default: {default})'
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(*field.metadata['flags'], dest=name, default=argparse.SUPPRESS, help=sentence,
                                   **argument)


def given(flags):
    """-> {name: value} of the settings that a command line gives"""
    values = {name: getattr(flags, name) for name in FIELDS if hasattr(flags, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def as_flags(values):
    """{name: value} as on a command line. -> str"""
    texts = []
    for name, value in values.items():
        for flag in FIELDS[name].metadata['flags'] if value is not None else ():
            if isinstance(value, bool):
                texts.append(flag if value else flag.replace('--', '--no-', 1))
            elif name != 'head':
                texts.append(f'{flag} {_as_text(value)}')
            elif value == 'Semantic':
                texts.append(flag)
    return ' '.join(texts)


def _as_text(value):
    if value is None:
        return 'none'
    if isinstance(value, tuple):
        return ' '.join(map(_as_text, value))
    return f'{value:g}' if isinstance(value, float) else str(value)


# ---- A new run, or one that resumes ----------------------------------------------------------------------------------

def start(chosen, model=None):
    """The Settings of a new run. chosen: {name: value} of the flags that were given. model: Settings of --modeldir.

    Defaults are replaced by the recipe's, those by the model's where it is of the same kind, those by `chosen`.
    -> (Settings, {name: value} of what came from the model). Raises InputError where they contradict each other.
    """
    values = {**RECIPES[chosen['recipe']], **chosen}
    semantic, about_embedding = values.get('head') == 'Semantic', names_of('embedding')
    if semantic:
        for name in chosen.keys() & about_embedding:
            raise InputError(f'{FIELDS[name].metadata["flags"][0]}: is about an embedding, and --semantic trains none')
        values = {name: value for name, value in values.items() if name not in about_embedding}
        values['feature_dim'] = 2
    inherited = {}
    if model:
        values['normalisation'] = model.normalisation   # weights need images as in their own training
        if model != dataclasses.replace(OF_2018, head=model.head) and model.kind == values['kind']:
            names = ['image_size'] if semantic or model.head == 'Semantic' else names_of('inherited')
            inherited = {name: getattr(model, name) for name in names if name not in chosen}
    settings = Settings(**{**values, **inherited})
    if settings.classes and not settings.foreground_weight and 'foreground_weight' not in chosen:
        settings = dataclasses.replace(settings, foreground_weight=RECIPES['any']['foreground_weight'])
    settings.check('')
    return settings, inherited


def resume(chosen, before, outdir):
    """The Settings of a resumed run: as before. chosen: {name: value} of the flags that were given.

    Raises InputError, with the way out, where a flag that was given says otherwise and is not free to.
    """
    free = [name for name in names_of('free') if before.schedule != 'cosine']   # rates depend on the number of steps
    different = []
    for name, value in chosen.items():
        if value != getattr(before, name) and name not in free:
            what = {'photos': 'other images or shares in --srcdir', 'batch_size': '--batch-size times processes'}.get(
                name, (FIELDS[name].metadata['flags'] or [f'--{name}'])[0])
            different.append(what if name == 'photos' else
                             f'{what} was {_as_text(getattr(before, name))}, is {_as_text(value)}')
    if different:
        raise InputError(f'{outdir}: holds a run with other settings ({"; ".join(different)}); give the same to resume '
                         f'it, --modeldir {outdir} --outdir NEW to continue from its model with these, or --fresh to '
                         f'start over')
    return dataclasses.replace(before, **{name: chosen[name] for name in free if name in chosen})


# ---- The record ------------------------------------------------------------------------------------------------------

def to_json(settings, everything=False):
    """The record of a model, or everything that a run needs to resume. -> str"""
    values = {name: getattr(settings, name) for name in (FIELDS if everything else names_of('recorded'))}
    if not settings.classes:
        del values['classes']
    return json.dumps({**values, 'version': VERSION}, indent=1) + '\n'


def write(folder, settings, everything=False):
    """Writes the record into a folder, whole or not at all."""
    files.write_file(os.path.join(folder, CONVENTIONS_FILE), to_json(settings, everything).encode())


def read(folder):
    """-> the Settings in the record of a folder, None if it has none. Raises InputError for a damaged one."""
    path = os.path.join(folder, CONVENTIONS_FILE)
    return from_json(files.read_file(path, _MAX_BYTES), path) if os.path.exists(path) else None


def from_json(text, source):
    """-> Settings; a field that is absent has its default. Raises InputError, naming the source and the field."""
    try:
        record = json.loads(text)
        version = record.pop('version')
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise InputError(f'{source}: is not a record of conventions; take the file that training wrote')
    if type(version) is not int or version != VERSION:
        raise InputError(f'{source}: "version" is {version!r}; this program reads {VERSION}')
    for name, value in record.items():
        if name not in FIELDS:
            raise InputError(f'{source}: "{name}" is an unknown setting')
        try:
            record[name] = _checked(value, FIELDS[name])
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise InputError(f'{source}: "{name}" has an invalid value ({error})')
    settings = Settings(**record)
    settings.check(f'{source}: ')
    return settings


def _checked(value, field):
    """-> a value of JSON as that of a field. Raises what argparse's types raise."""
    argument = field.metadata['argument']
    kind = argument.get('type')
    if value is None and field.default is None:
        return None
    if value not in argument.get('choices', [value]):
        raise ValueError(f'{value!r} is not {" or ".join(argument["choices"])}')
    if isinstance(field.default, tuple):
        if type(value) is not list or len(value) != argument.get('nargs', len(value)):
            raise ValueError(f'{value!r} is not a list of that length')
        return tuple(kind(repr(each)) if kind else each for each in value)
    if not kind and type(value) is not type(field.default):
        raise ValueError(f'{value!r} is not of type {type(field.default).__name__}')
    return kind(repr(value)) if kind else value
