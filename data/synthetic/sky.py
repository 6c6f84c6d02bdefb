"""The background: the sky with its clouds and sun, and hills, woods and houses on the horizon."""
import cv2
import numpy as np

from data.synthetic.canvas import clipped, cloud_tile, look_up, wandering

_HORIZON_LAYERS = (  # distance m, (low, high) of the height m, chance; from far to near
    (8000, (150, 420), 0.35), (2500, (25, 110), 0.45), (900, (4, 16), 0.9), (500, (2, 11), 0.7))
_HORIZON_COLOUR = np.array([75, 88, 62])


def paint_sky(canvas, rng):
    """Paints the whole canvas: the sky, and the colour of the horizon where the ground follows."""
    light, view = canvas.light, canvas.view
    end = int(np.clip(view.vanishing + 4, 8, canvas.height))
    y, x = np.meshgrid(np.arange(0, end, 4.0), np.arange(0, canvas.width, 4.0), indexing='ij')
    rows = (np.clip(y / max(view.vanishing, 1), 0, 1) ** 1.3)[..., None]
    sky = light.zenith * (1 - rows) + light.horizon * rows
    if light.clouds:
        above = np.maximum(view.vanishing + 12 - y, 8)
        shift = rng.uniform(0, 512, 2)
        across = (x - view.camera.centre + canvas.panned) / above * 45 + shift[0]
        cloud = look_up(cloud_tile(), across.astype(np.float32),
                        (6000 / above + shift[1]).astype(np.float32))[..., None]
        cover = np.clip((cloud - 1 + 2 * light.clouds) * 0.6, 0, 0.85) * (1 - rows ** 4)
        sky += (light.horizon * (1.02 - 0.12 * np.clip(cloud, 0, 1)) - sky) * cover
    if abs(light.azimuth) < 1.4 and light.shadow > 0.1:  # brighter around the sun
        sun = canvas.sun()
        far = np.hypot(x - sun[0], y - sun[1])[..., None]
        sky += (255 - sky) * (0.95 * np.exp(-far / 60) + 0.5 * np.exp(-far / 420))
    canvas.pixels[:end] = cv2.resize(np.clip(sky, 0, 255).astype(np.float32), (canvas.width, end))
    canvas.pixels[end:] = clipped(light.horizon)


def paint_horizon(canvas, rng):
    """Hills, then woods or houses, nearer and darker, down to the ground."""
    view, width = canvas.view, canvas.width
    least, most = (int(view.camera.focal * turn) for turn in canvas.scene.progress.turns)
    around = width + most - least + 2 * (most > least)  # px, everything that comes into view during a drive
    columns = np.arange(width) + canvas.panned - least
    before = canvas.pixels.copy()
    green = rng.uniform(0.6, 1.1)
    # All heights are sampled before the first outline.
    for z, tall, chance in [(z, rng.uniform(*heights), chance) for z, heights, chance in _HORIZON_LAYERS]:
        rough = 0.5 + 0.35 * wandering(rng, around, 400 if z > 1000 else 150)
        if z < 3000:  # crowns of trees
            rough = np.maximum(rough, 0.1) * (1 + 0.22 * wandering(rng, around, 16))
        rough = np.interp(columns, np.arange(around), rough)
        if rng.random() < chance:
            top = view.vanishing + 2 - view.camera.focal / z * tall * np.clip(rough, 0.03, None)
            colour = canvas.air(_HORIZON_COLOUR * (green if z > 1000 else 0.5 * green), min(z, 0.9 * canvas.light.haze))
            bottom = view.vanishing + 12
            outline = np.stack([np.arange(width), top], 1)
            canvas.polygon(np.vstack([outline, [[width, bottom], [0, bottom]]]), colour)
    canvas.roughen(before, rng, 2.5, 0.09)
