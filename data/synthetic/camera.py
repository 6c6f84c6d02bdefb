"""From the painted scene to the image: roll, exposure, stray light, blur, colours, noise."""
import cv2
import numpy as np

from data.synthetic.canvas import HEIGHT, MARGIN, WIDTH, fill, noise_tile
from data.synthetic.vehicles import PAINTS


def photograph(canvas, rng):
    """Applies the camera's roll, the lens and the sensor to the canvas. -> uint8 [720, 1280, 3] RGB"""
    lens = canvas.scene.lens
    turn = canvas.view.turn()
    turn[:, 2] -= turn[:, :2] @ [MARGIN, MARGIN]
    photo = cv2.warpAffine(canvas.pixels, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_REPLICATE)
    gain = np.clip((lens.exposure / photo[::8, ::8].mean()) ** 0.8, 0.45, 1.9)
    if lens.hood:
        _paint_hood(photo, lens, canvas.light, rng)
    photo = cv2.add(photo, cv2.resize(cv2.convertScaleAbs(_veil(photo, canvas)), (WIDTH, HEIGHT)))
    if lens.blur > 0.25 or lens.motion:
        photo = cv2.GaussianBlur(photo, (0, 0), sigmaX=max(lens.blur, 0.1),
                                 sigmaY=max(np.hypot(lens.blur, lens.motion / 3), 0.1))
    matrix = lens.saturation * np.eye(3) + (1 - lens.saturation) * np.array([[0.3, 0.59, 0.11]])
    photo = cv2.transform(photo, (matrix * np.array(lens.balance)[:, None] * gain).astype(np.float32))
    t = np.arange(256) / 255
    photo = cv2.LUT(photo, np.rint(255 * (t + 0.8 * lens.contrast * (t * t * (3 - 2 * t) - t))).astype(np.uint8))
    return _sensor(photo, lens, rng)


def _paint_hood(photo, lens, light, rng):
    x = np.linspace(-200, WIDTH + 200, 60)
    y = HEIGHT - lens.hood * (1 - ((x - WIDTH / 2) / (WIDTH * 0.75)) ** 2)
    colour = np.array(PAINTS[rng.integers(len(PAINTS))][0]) * 0.4 * light.ambient + 0.15 * light.zenith
    for drop, gain in ((0, 0.6), (3, 1.0), (lens.hood * 0.5, 0.85)):
        points = np.vstack([np.stack([x, y + drop], 1), [[WIDTH + 200, HEIGHT + 50], [-200, HEIGHT + 50]]])
        fill(photo, points, colour * gain)


def _veil(photo, canvas):
    """Light that the lens scatters around bright areas. -> float32 [90, 160, 3], an eighth of the image's size"""
    light, glare = canvas.light, canvas.scene.lens.glare
    small = cv2.resize(photo, (WIDTH // 8, HEIGHT // 8), interpolation=cv2.INTER_AREA).astype(np.float32)
    veil = cv2.GaussianBlur(np.maximum(small - 190, 0), (0, 0), 5) * (0.1 + 0.25 * glare)
    if light.shadow > 0.2 and abs(light.azimuth) < 1.0 and light.elevation < 0.6:  # the sun is close to the image
        x, y = canvas.sun()
        far = np.hypot(np.arange(WIDTH // 8)[None] - (x - MARGIN) / 8,
                       np.arange(HEIGHT // 8)[:, None] - (y - MARGIN) / 8)
        glow = glare * (70 * np.exp(-far / 60) + 120 * np.exp(-far / 14))
        veil += glow[..., None] * np.float32([1, .95, .85])
    return veil


def _sensor(photo, lens, rng):
    """Darkens the corners, then adds noise to brightness and, half as strong, to colour. -> uint8, like photo"""
    rows, columns = np.ogrid[-1:1:HEIGHT * 1j, -1:1:WIDTH * 1j]
    dark = 1 - np.float32(lens.vignette) * ((columns ** 2 + rows ** 2) / 2).astype(np.float32)
    (y, x), (v, u) = rng.integers(0, 512, [2, 2])
    noise = np.tile(noise_tile(5, 0)[:512, :512], [3, 4])
    shot = noise[y:y + HEIGHT, x:x + WIDTH] * np.float32(lens.noise)
    hue = noise[v:v + HEIGHT, u:u + WIDTH] * np.float32(lens.noise * 0.5)
    photo = cv2.multiply(photo, cv2.merge([dark] * 3), dtype=cv2.CV_32F)
    return np.clip(photo + cv2.merge([shot + hue, shot, shot - hue]) + 0.5, 0, 255).astype(np.uint8)
