"""Which files of a folder are images: by their names, or by their first bytes."""

import functools
import re

from PIL import Image

# Usual endings of image files.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".jfif"),
)
# Rarer ones that nothing else has.
_RARER = (
    *(".apng", ".avif", ".dib", ".j2k", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"),
)
# Formats that Pillow knows and cannot decode by itself, or that are no pictures.
_NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
# Endings of files that are never images, though their first bytes may be those of one: tables,
# texts, archives, what is not written to its end, backups, raw files of cameras and what lies
# beside them.
_OTHERS = re.compile(
    r".*\.("
    r"csv|tsv|txt|json|jsonl|xml|yaml|yml|toml|md|rst|html|htm|log|ini|cfg|py|ipynb|sh|"
    r"m|mat|npy|npz|pkl|pt|h5|hdf5|parquet|arrow|db|sqlite|zip|tar|gz|tgz|bz2|xz|7z|"
    r"rar|pdf|doc|docx|xls|xlsx|mp4|avi|mov|mkv|webm|mp3|wav|part|partial|crdownload|"
    r"download|tmp|bak|old|orig|[^.]*_original|[^.]*~|swp|lock|md5|sha1|sha256|ply|obj|pcd|"
    r"thm|raw|nef|nrw|cr2|cr3|crw|dng|arw|sr2|srw|raf|rw2|orf|pef|xmp|aae"
    r")|.*~",
    re.IGNORECASE | re.DOTALL,
)
# First bytes of image files.
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|BM|RIFF....WEBP|II\*\0|MM\0\*|\0\0\0\x0cjP  "
    rb"|....ftypavif",
    re.DOTALL,
)
_MAGIC_BYTES = 16


@functools.cache
def _known() -> tuple[str, ...]:
    """Endings of the formats that Pillow reads; some are those of other files as well."""
    known = Image.registered_extensions()
    return tuple(e for e, name in known.items() if name in Image.OPEN and name not in _NO_PICTURES)


def by_name(name: str) -> bool | None:
    """Whether a file is an image, by its name; None if its first bytes have to tell."""
    if _OTHERS.fullmatch(name):
        return False
    return True if name.lower().endswith(ENDINGS + _RARER) else None


def by_content(path: str) -> bool:
    """Whether Pillow finds an image in a file."""
    try:
        with open(path, "rb") as file:
            start = file.read(_MAGIC_BYTES)
        # Pillow takes other files for images if it has nothing but their bytes.
        if not (path.lower().endswith(_known()) or _MAGIC.match(start)):
            return False
        with Image.open(path) as image:
            return image.format not in (None, *_NO_PICTURES)
    except Image.DecompressionBombError:
        return True  # the reader says that it is too large
    except Exception:  # other bytes make Pillow's parsers raise errors of any type
        return False
