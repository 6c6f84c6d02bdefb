"""The distributions of `--scenes any`: beside TuSimple's freeways other cameras, city streets, traffic jams, night,
rain and dirty windscreens.

Units and the ways of writing are those of data/synthetic/distributions.py, whose scenes are part of the mix.
"""
import dataclasses

import numpy as np

from data.synthetic.canvas import HEIGHT, MARGIN, NEAREST, WIDTH, mixture
from data.synthetic.distributions import (sample_labelled, sample_lens, sample_light, sample_lines, sample_road,
                                          sample_scene, sample_vehicles)
from data.synthetic.scene import Camera, Light, Night, Scene, Windscreen
from data.synthetic.streets import sample_street, sample_traffic, tunnel_sides, with_lights

_PLACES = {'TuSimple': 0.43, 'freeway': 0.17, 'street': 0.40}  # shares
_JAM_CHANCE, _TUNNEL_CHANCE = 0.3, 0.08  # of a freeway


def sample_any_scene(rng):
    """Draws a scene: a freeway as data/synthetic/distributions.py has it, or of another kind. -> Scene"""
    place = rng.choice(list(_PLACES), p=list(_PLACES.values()))
    if place == 'TuSimple':
        return sample_scene(rng)
    camera = _sample_other_camera(rng)
    tunnel = place == 'freeway' and rng.random() < _TUNNEL_CHANCE
    light = _sample_tunnel_light(rng) if tunnel else _sample_other_light(rng)
    lens = dataclasses.replace(sample_lens(rng, light), bonnet=0.0)
    windscreen = _sample_windscreen(rng)
    windscreen.bonnet = min(windscreen.bonnet, _BONNET_SHARE * (HEIGHT - camera.horizon))
    nearest = camera.tall * camera.height / (HEIGHT - windscreen.bonnet - camera.horizon)  # m of road that is seen
    if place == 'street':
        road, lines, vehicles, sides, markings = sample_street(rng, camera, nearest, light.night is not None)
    else:
        road, sides, markings = sample_road(rng, camera), (), ()
        if tunnel:
            road = dataclasses.replace(road, oncoming=None, two_way=False)
            sides = tunnel_sides(road)
        lines = sample_lines(rng, road, sample_labelled(rng, road))
        jam = rng.random() < _JAM_CHANCE
        vehicles = sample_traffic(rng, road, int(road.two_way), True, nearest) if jam else sample_vehicles(rng, road)
        vehicles = with_lights(vehicles) if light.night else vehicles
    if light.night:
        offsets = [side.kerb for side in sides] or [road.edges[0] - 1, road.edges[1] + 1.5]
        kept = tuple(offset for offset in offsets if tunnel or rng.random() < _LAMP_ROW_CHANCE)
        light.night = dataclasses.replace(light.night, lamps=kept)
    return Scene(camera, road, lines, vehicles, light, lens, sides=sides, markings=markings, windscreen=windscreen)


# ---- Camera ----------------------------------------------------------------------------------------------------------

_CAMERAS = [  # share; stretch: 1 for 16:9; focal length px; height m; horizon, of the photo's height; distortion
    (0.34, (1.4, 1.65), (500, 900), (1.05, 1.65), (0.36, 0.66), (0, 0.12)),  # wide crops of 2.8:1, as CULane's
    (0.24, (0.72, 0.8), (560, 1150), (1.2, 2.3), (0.2, 0.55), (0, 0.1)),  # 4:3
    (0.24, (0.95, 1.05), (480, 900), (1.1, 1.8), (0.25, 0.65), (0.05, 0.4)),  # action cameras
    (0.18, (0.95, 1.05), (850, 2200), (1.15, 2.2), (0.2, 0.6), (0, 0.03)),  # dash cameras
]
_NO_DISTORTION_CHANCE = 0.4
_CENTRE, _ROLL = (540, 740), (0, 0.9)  # px; degrees, normal
_NEAREST_ROAD = 1.15  # times NEAREST: the road at the photo's lower border is that far away or farther


def _sample_other_camera(rng):
    _, stretch, focal, height, horizon, distortion = _CAMERAS[rng.choice(len(_CAMERAS), p=[row[0] for row in _CAMERAS])]
    stretch, focal, height = rng.uniform(*stretch), rng.uniform(*focal), rng.uniform(*height)
    horizon, distortion = rng.uniform(*horizon) * HEIGHT, rng.uniform(*distortion)
    if rng.random() < _NO_DISTORTION_CHANCE:
        distortion = 0.0
    focal = max(focal, _NEAREST_ROAD * NEAREST * (HEIGHT + MARGIN - horizon) / height / stretch)
    # The lens magnifies the middle: what it moves is put back.
    return Camera(focal=focal / (1 + 0.5 * distortion), height=height, centre=rng.uniform(*_CENTRE),
                  horizon=HEIGHT / 2 + (horizon - HEIGHT / 2) / (1 + distortion),
                  roll=np.deg2rad(rng.normal(*_ROLL)), stretch=stretch, distortion=distortion)


# ---- Light -----------------------------------------------------------------------------------------------------------

_NIGHT_CHANCE, _WET_CHANCE, _WET_NIGHT_CHANCE = 0.2, 0.08, 0.35
_WET = (0.25, 0.9)
_DAZZLING_CHANCE, _DAZZLING_SKY, _DAZZLING_AMBIENT = 0.15, (235, 255), (0.6, 0.95)  # a white sky over a dim street
_NIGHT_AMBIENT, _NIGHT_HAZE, _NIGHT_SKY = (0.12, 0.42), (500, 4000), (5, 45)  # brightness of the sky
_BEAM = (0.2, 0.9)
_LAMP_ROW_CHANCE, _LAMP_STEP, _LAMP_HEIGHT, _LAMP_GLOW = 0.75, (22, 45), (7, 11), (0.1, 0.75)
_LAMP_COLOURS = [(1.0, 0.72, 0.38), (1.0, 0.9, 0.75), (0.9, 0.96, 1.0)]  # sodium, halogen, LED


def _sample_other_light(rng):
    if rng.random() >= _NIGHT_CHANCE:
        light = sample_light(rng)
        if rng.random() < _DAZZLING_CHANCE:
            sky = np.full(3, rng.uniform(*_DAZZLING_SKY))
            light = dataclasses.replace(light, shadow=0.0, zenith=sky * 0.97, horizon=sky, clouds=0.0,
                                        ambient=rng.uniform(*_DAZZLING_AMBIENT), haze=rng.uniform(800, 4000))
        if rng.random() < _WET_CHANCE:
            light = dataclasses.replace(light, wet=rng.uniform(*_WET), shadow=min(light.shadow, 0.1))
        return light
    sky = rng.uniform(*_NIGHT_SKY)
    colour = np.array([1.0, 0.98, 1.05]) + rng.normal(0, 0.06, 3)
    night = Night(beam=rng.uniform(*_BEAM), lamps=(), lamp_step=rng.uniform(*_LAMP_STEP),
                  lamp_phase=rng.uniform(3, 30), lamp_height=rng.uniform(*_LAMP_HEIGHT),
                  lamp_colour=np.array(_LAMP_COLOURS[rng.integers(3)]), lamp_glow=rng.uniform(*_LAMP_GLOW))
    return Light(azimuth=np.pi, elevation=0.8, shadow=0.0, zenith=sky * colour * 0.6, horizon=sky * colour,
                 haze=rng.uniform(*_NIGHT_HAZE), ambient=rng.uniform(*_NIGHT_AMBIENT), clouds=0.0, dusk=True,
                 night=night, wet=rng.uniform(*_WET) if rng.random() < _WET_NIGHT_CHANCE else 0.0)


_TUNNEL_AMBIENT, _TUNNEL_HORIZON, _TUNNEL_GLOW = (0.3, 0.6), (25, 220), (0.15, 0.5)


def _sample_tunnel_light(rng):
    grey = np.array([1.0, 0.97, 0.9]) * rng.uniform(*_TUNNEL_HORIZON)
    night = Night(beam=rng.uniform(0.05, 0.4), lamps=(), lamp_step=rng.uniform(6, 14), lamp_phase=0.0, lamp_height=4.0,
                  lamp_colour=np.array(_LAMP_COLOURS[rng.integers(3)]), lamp_glow=rng.uniform(*_TUNNEL_GLOW))
    return Light(azimuth=np.pi, elevation=0.8, shadow=0.0, zenith=grey, horizon=grey, haze=rng.uniform(900, 3000),
                 ambient=rng.uniform(*_TUNNEL_AMBIENT), clouds=0.0, dusk=True, night=night)


# ---- Windscreen ------------------------------------------------------------------------------------------------------

_BONNET_CHANCE, _BONNETS, _BONNET_SHARES = 0.6, ((15, 60), (50, 130), (110, 210)), [.4, .4, .2]  # px
_BONNET_SHARE = 0.4  # at most, of what is below the horizon
_BONNET_MIDDLE, _BONNET_REACH, _BONNET_POWER = (480, 800), (620, 1500), (1.8, 4.5)  # px, px
_BONNET_COLOURS = [(18, 18, 20), (30, 32, 34), (150, 152, 155), (215, 215, 213), (90, 20, 18), (25, 50, 46),
                   (30, 42, 72), (100, 100, 98)]
_BONNET_SHINE = (0.03, 0.6)
_DIRT_CHANCE, _HAZE_CHANCE, _REFLECTION_CHANCE, _STREAKS_CHANCE = 0.3, 0.35, 0.35, 0.12
_HEAVY_CHANCE = 0.4  # that such a thing is strong
_WIPER_CHANCE, _WIPER_WIDTH = 0.05, (10, 26)  # px
_CORNERS_CHANCE, _CAPTION_CHANCE = 0.15, 0.2


def _sample_windscreen(rng):
    def strength(chance):
        if rng.random() >= chance:
            return 0.0
        return rng.uniform(0.5, 1.0) if rng.random() < _HEAVY_CHANCE else rng.uniform(0.05, 0.5)
    screen = Windscreen(dirt=strength(_DIRT_CHANCE), haze=strength(_HAZE_CHANCE),
                        reflection=strength(_REFLECTION_CHANCE), streaks=strength(_STREAKS_CHANCE),
                        corners=strength(_CORNERS_CHANCE))
    if rng.random() < _BONNET_CHANCE:
        screen.bonnet = mixture(rng, *_BONNETS, p=_BONNET_SHARES)
        screen.bonnet_middle, screen.bonnet_reach = rng.uniform(*_BONNET_MIDDLE), rng.uniform(*_BONNET_REACH)
        screen.bonnet_power, screen.bonnet_shine = rng.uniform(*_BONNET_POWER), rng.uniform(*_BONNET_SHINE)
        screen.bonnet_colour = _BONNET_COLOURS[rng.integers(len(_BONNET_COLOURS))]
    if rng.random() < _WIPER_CHANCE:
        foot, turn, reach = rng.uniform(0, WIDTH), rng.uniform(-1.3, 1.3), rng.uniform(300, 900)
        screen.wiper = (foot, HEIGHT + 30, foot + reach * np.sin(turn), HEIGHT + 30 - reach * np.cos(turn),
                        rng.uniform(*_WIPER_WIDTH))
    if rng.random() < _CAPTION_CHANCE:
        day, clock = rng.integers([2012, 1, 1], [2026, 13, 29]), rng.integers(0, [24, 60, 60])
        screen.caption = '{:04d}/{:02d}/{:02d} {:02d}:{:02d}:{:02d}'.format(*day, *clock)
        screen.caption_place = (rng.uniform(10, 800), rng.choice([32, HEIGHT - 12]))
    return screen
