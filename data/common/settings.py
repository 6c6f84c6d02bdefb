"""The settings of a training run and of its model: one record from which everything else is derived.

A field of `Settings` has a default, a help sentence, possibly a flag, and its uses: whether it is `recorded` in the
conventions.json next to a checkpoint, for readers of the weights; whether it is `inherited` from the model in
--modeldir; whether it is `free` to change when a run resumes; whether it needs an `embedding`. Imports no TensorFlow.
"""
import argparse
import dataclasses
import json
import os

from data.common import command_line, files
from data.common.command_line import InputError

CONVENTIONS_FILE = 'conventions.json'
VERSION = 3                 # of the record
_MAX_BYTES = 2 ** 20        # of a record, which takes 1 kB
_MAX_PIXELS = 2 ** 24       # of an image; bounds memory
_SPAN = 8.   # initial extent of an image's longer side in the embedding, with coordinates, in units of 2 delta_d
_NUMBER, _POSITIVE = command_line.non_negative_float, command_line.positive_float


def _setting(default, sentence, *flags, group=None, uses=('recorded',), **argument):
    """A field. argument: for argparse's add_argument; its `type` and `choices` also apply to the record."""
    metadata = {'help': sentence, 'flags': flags, 'group': group, 'uses': uses, 'argument': argument}
    return dataclasses.field(default=default, metadata=metadata)


def _model(default, sentence, *flags, group='loss', **argument):
    return _setting(default, sentence, *flags, group=group, uses=('recorded', 'inherited', 'embedding'), **argument)


def _run(default, sentence, *flags, uses=(), **argument):
    return _setting(default, sentence, *flags, group='optimisation', uses=uses, **argument)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Training calls it `run`, readers of weights `conventions`. The defaults are those of a new run; see OF_2018."""
    image_size: tuple = _setting((512, 512), 'Width and height that images are resized to, in px, multiples of 8.',
                                 '--image-size', group='network', uses=('recorded', 'inherited'), nargs=2,
                                 metavar=('W', 'H'), type=command_line.image_side)
    normalisation: str = _setting('signed', 'Of RGB 0..255: none, or signed for -1..1.', choices=('none', 'signed'))
    head: str = _setting('Instance', 'Train the first stage of 2018 instead: lane or background, by cross entropy.',
                         '--semantic', group='loss', action='store_const', const='Semantic',
                         choices=('Instance', 'Semantic'))
    feature_dim: int = _model(3, 'Dimensions of the embedding.', '--feature-dim', group='network',
                              type=command_line.feature_dim)
    head_activation: str = _setting('none', 'Activation of the head: none or relu.', choices=('none', 'relu'))
    batch_statistics: bool = _setting(False, 'At inference, as the moving averages were never updated.')
    dropout_at_inference: bool = _setting(False, 'A mistake in the graph of 2018.')
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
                                      'the background is not an instance, as in the paper.', '--background-weight',
                                      type=_NUMBER)
    foreground_weight: float = _model(0., 'Weight of the cross entropy of a head that separates foreground from '
                                      'background, or the classes; at 0 there is no such head.', '--foreground-weight',
                                      type=_NUMBER)
    foreground_threshold: float = _model(0.5, 'Threshold of the foreground probability.',
                                         '--foreground-threshold', type=command_line.share)
    bandwidth: float = _model(0.7, 'Bandwidth of mean shift in validation and inference, in units of the embedding.',
                              '--bandwidth', type=command_line.bandwidth)
    classes: tuple = _model((), 'Names of the classes 1, 2, ..., which the foreground head predicts.')
    min_confidence: float = _setting(0., 'Minimum confidence of an instance.',
                                     uses=('recorded', 'inherited'), type=command_line.share)
    # Only for the run:
    recipe: str = _run('2018', '', choices=('2018', 'fast', 'any'))
    modeldir: str = _run('', '')
    epochs: int = _run(50, 'Passes over the training images.', '--epochs', uses=('free',),
                       type=command_line.positive_int)
    batch_size: int = _run(1, 'Images per step and process.', '--batch-size', type=command_line.positive_int)
    learning_rate: float = _run(1e-4, 'Peak learning rate of Adam.', '--learning-rate', type=_POSITIVE)
    schedule: str = _run('2018', 'Learning-rate schedule: 2018, times 0.96 every 5,000 steps; or cosine, to 0 after a '
                         'warm-up of a twentieth of all steps.', '--schedule', choices=('2018', 'cosine'))
    augment: bool = _run(True, 'Randomly warp and recolour images.', '--augment', action=argparse.BooleanOptionalAction)
    ignore: int = _run(None, 'Label value of ignored pixels, e.g. 255; they are excluded from all losses and scores.',
                       '--ignore', type=command_line.non_negative_int)
    seed: int = _run(42, 'Seed of the initial weights, the order of images, augmentation and dropout.', '--seed',
                     type=command_line.non_negative_int)
    photos: tuple = _run((), '')   # see run.fingerprint

    @property
    def heads(self):
        """-> {scope of each head: its channels}"""
        depth = 1 + max(1, len(self.classes))
        return {self.head: self.feature_dim, **({'Semantic': depth} if self.foreground_weight else {})}

    @property
    def clusters_foreground(self):
        """Whether the foreground head selects the pixels to cluster; with classes, only if the embedding cannot."""
        return bool(self.foreground_weight and not (self.classes and self.background_weight))

    def reach(self, scope):
        """The `reach` of a head, see `utils.build_head`. -> float, 0 for a head without coordinates"""
        return _SPAN * self.delta_d if self.coordinates and scope == 'Instance' else 0.

    def check(self, source):
        """Raises InputError, starting with `source`, if settings are inconsistent or too large."""
        width, height = self.image_size
        for problem, text in (
                (width % 8 or height % 8, f'--image-size: {width} {height} are not both multiples of 8'),
                (width * height > _MAX_PIXELS, f'--image-size: {width} {height} is too large'),
                (self.delta_v >= self.delta_d, f'--dvar: {self.delta_v:g} is not below --ddist, {self.delta_d:g}'),
                (self.head == 'Semantic' and (self.foreground_weight or self.coordinates),
                 '--semantic: cannot be combined with --foreground-weight or --coordinates'),
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
RECIPES = {   # override the defaults above
    '2018': {},
    'fast': {'batch_size': 4, 'image_size': (512, 256), 'schedule': 'cosine', 'learning_rate': 3e-3, 'reg': 0.001,
             'background_weight': 6., 'bandwidth': 0.75},
    'any': {'kind': 'any', 'batch_size': 4, 'image_size': (256, 256), 'feature_dim': 4, 'coordinates': True,
            'schedule': 'cosine', 'learning_rate': 3e-3, 'reg': 0.001, 'background_weight': 0.,
            'foreground_weight': 2., 'bandwidth': 1.},
}


def names_of(use):
    """-> the names of the settings with a use: 'recorded', 'inherited', 'free' or 'embedding' (not for --semantic)"""
    return [name for name, field in FIELDS.items() if use in field.metadata['uses']]


# ---- Flags -----------------------------------------------------------------------------------------------------------

def add_flags(parser):
    """Adds the flags of the settings, in their groups. Flags that are not given are absent from the parsed ones."""
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
    """-> {name: value} of the settings given on a command line"""
    values = {name: getattr(flags, name) for name in FIELDS if hasattr(flags, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def as_flags(values):
    """Formats {name: value} as flags. -> str"""
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
    """The Settings of a new run. chosen: {name: value} of the given flags. model: Settings of --modeldir.

    The recipe overrides the defaults, a model of the same kind overrides the recipe, and `chosen` overrides both.
    -> (Settings, {name: value} inherited from the model). Raises InputError if they contradict each other.
    """
    values = {**RECIPES[chosen['recipe']], **chosen}
    semantic, about_embedding = values.get('head') == 'Semantic', names_of('embedding')
    if semantic:
        for name in chosen.keys() & about_embedding:
            raise InputError(f'{FIELDS[name].metadata["flags"][0]}: cannot be combined with --semantic')
        values = {name: value for name, value in values.items() if name not in about_embedding}
        values['feature_dim'] = 2
    inherited = {}
    if model:
        values['normalisation'] = model.normalisation   # weights need the images that they were trained on
        if model != dataclasses.replace(OF_2018, head=model.head) and model.kind == values['kind']:
            names = ['image_size'] if semantic or model.head == 'Semantic' else names_of('inherited')
            inherited = {name: getattr(model, name) for name in names if name not in chosen}
    settings = Settings(**{**values, **inherited})
    if settings.classes and not settings.foreground_weight and 'foreground_weight' not in chosen:
        settings = dataclasses.replace(settings, foreground_weight=RECIPES['any']['foreground_weight'])
    settings.check('')
    return settings, inherited


def resume(chosen, before, outdir):
    """The Settings of a resumed run: as before, except for free ones. chosen: {name: value} of the given flags.

    Raises InputError, which lists the alternatives, if a given flag differs and is not free.
    """
    free = [name for name in names_of('free') if before.schedule != 'cosine']   # rates depend on all steps
    different = []
    for name, value in chosen.items():
        if value != getattr(before, name) and name not in free:
            what = {'photos': 'other images, shares or lanes.json', 'batch_size': '--batch-size times processes'}.get(
                name, (FIELDS[name].metadata['flags'] or [f'--{name}'])[0])
            different.append(what if name == 'photos' else
                             f'{what} was {_as_text(getattr(before, name))}, is {_as_text(value)}')
    if different:
        raise InputError(f'{outdir}: holds a run with other settings ({"; ".join(different)}); give the same to resume '
                         f'it, --modeldir {outdir} --outdir NEW to continue from its model with these, or --fresh to '
                         'start over')
    return dataclasses.replace(before, **{name: chosen[name] for name in free if name in chosen})


# ---- The record ------------------------------------------------------------------------------------------------------

def to_json(settings, everything=False):
    """The record of a model, or everything that a run needs to resume. -> str"""
    values = {name: getattr(settings, name) for name in (FIELDS if everything else names_of('recorded'))}
    if not settings.classes:
        del values['classes']
    return json.dumps({**values, 'version': VERSION}, indent=1) + '\n'


def write(folder, settings, everything=False):
    """Writes the record into a folder atomically."""
    files.write_file(os.path.join(folder, CONVENTIONS_FILE), to_json(settings, everything).encode())


def read(folder):
    """-> the Settings recorded in a folder, or None without a record. Raises InputError if it is damaged."""
    path = os.path.join(folder, CONVENTIONS_FILE)
    return from_json(files.read_file(path, _MAX_BYTES), path) if os.path.exists(path) else None


def from_json(text, source):
    """-> Settings, with the defaults of absent fields. Raises InputError, naming the source and the field."""
    try:
        record = json.loads(text)
        version = record.pop('version')
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise InputError(f'{source}: is not a record of conventions; use the file that training wrote')
    if version != VERSION:
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
    """-> a JSON value, converted to the type of a field. Raises ValueError or argparse.ArgumentTypeError."""
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
