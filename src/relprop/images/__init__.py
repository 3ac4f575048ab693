"""Pictures in: find files, read them as RGB, prepare them the way a network was trained to see them.

picture = read_image("cat.jpg")          # upright RGB, whatever the file held
prepare = Preprocess(size=224, resize=256)
x = prepare(picture)                     # (3, 224, 224), normalised
prepare.crop(picture)                    # the same part of the picture, for overlays
"""

from relprop.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from relprop.images.read import MAX_PIXELS, SUFFIXES, find_images, read_image, read_mask

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_PIXELS",
    "SUFFIXES",
    "Preprocess",
    "find_images",
    "read_image",
    "read_mask",
]
