"""Draws the figures of the README into inference_test/figures, and the clip inference_test/drive.mp4.

    python tests/figures.py result inference_test/images/0003.jpg       photo, embedding and lanes, by trained_model
    python tests/figures.py embedding log/scatter_*.png                 plots of a run, one below the other
    python tests/figures.py clip drive/clips/synthetic_drive/*.jpg      frames of a drive as a video of 640x360
    python tests/figures.py drive inference_test/drive_result/drive.mp4 a video as a moving picture, every second frame
"""
import itertools
import os
import sys

import cv2
import numpy as np
import PIL.Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import inference
import visualization
from data.common import command_line, files, inputs, pictures, quiet, video
from data.synthetic import drive

FIGURES = os.path.join(ROOT, 'inference_test', 'figures')
HEIGHT = 270  # px of a row of pictures
CLIP_SIZE = 640, 360  # px


def side_by_side(photos, height=HEIGHT):
    """-> uint8 [height, w, 3]"""
    return np.hstack([cv2.resize(photo, (round(photo.shape[1] * height / photo.shape[0]), height),
                                 interpolation=cv2.INTER_AREA) for photo in photos])


def result(path):
    """A photo, its embedding as colours, and its instances. -> uint8 [HEIGHT, w, 3]"""
    quiet.import_tensorflow()
    embed, conventions = inference.load_network(os.path.join(ROOT, 'trained_model'))
    photo = inputs.Photo(0, path, path, image=pictures.read_image(path))
    inference.embed_photo(photo, embed, conventions)
    inference.find_instances(photo, conventions)
    colours = visualization.embedding_as_colours(photo.embedding)
    return side_by_side([photo.image, cv2.resize(colours, photo.image.shape[1::-1]),
                         visualization.draw_instances(photo.image, photo.ids)])


def embedding(paths):
    """Plots of one size, one below the other, 1080 px wide. -> uint8 [h, 1080, 3]"""
    plots = [pictures.read_image(path) for path in paths]
    return np.vstack([side_by_side([plot], round(1080 * plot.shape[0] / plot.shape[1])) for plot in plots])


def write_clip(paths):
    """Frames of a drive as inference_test/drive.mp4."""
    writer = video.Writer(os.path.join(ROOT, 'inference_test', 'drive.mp4'), CLIP_SIZE, drive.FRAME_RATE)
    for path in paths:
        writer.write(cv2.resize(pictures.read_image(path), CLIP_SIZE, interpolation=cv2.INTER_AREA))
    writer.close()


def write_moving_picture(path):
    """Every second frame of a video as figures/drive.webp."""
    clip = video.read_video(path)
    frames = [PIL.Image.fromarray(frame) for frame in itertools.islice(clip.frames, 0, None, 2)]
    frames[0].save(os.path.join(FIGURES, 'drive.webp'), save_all=True, append_images=frames[1:],
                   duration=round(2000 / clip.fps), loop=0, quality=50, method=6)


def main():
    parser = command_line.Parser(description=__doc__)
    parser.add_argument('figure', choices=('result', 'embedding', 'clip', 'drive'), help='Which figure to draw.')
    parser.add_argument('paths', nargs='+', help='A photo, plots, frames, or a video.')
    flags = parser.parse_args()
    files.make_output_folder(FIGURES)
    if flags.figure == 'result':
        pictures.write_image(os.path.join(FIGURES, 'result.png'), result(flags.paths[0]))
    elif flags.figure == 'embedding':
        pictures.write_image(os.path.join(FIGURES, 'embedding.png'), embedding(flags.paths))
    elif flags.figure == 'clip':
        write_clip(flags.paths)
    else:
        write_moving_picture(flags.paths[0])


if __name__ == '__main__':
    command_line.run(main)
