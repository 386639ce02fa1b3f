"""Which files of a source are images or videos: by their suffix, or by their first bytes where it says nothing."""

from __future__ import annotations

from pathlib import PurePosixPath

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".heic", ".heif", ".avif"),
)
"""File names that are taken for images, in lower case."""
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
)
"""File names that are taken for videos, in lower case."""
OTHER_SUFFIXES = (
    *(".txt", ".xml", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".names", ".data", ".labels", ".md", ".html"),
    *(".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar"),
    *VIDEO_SUFFIXES,
    *(
        ".py",
        ".ipynb",
        ".sh",
        ".bat",
        ".pdf",
        ".db",
        ".ini",
        ".log",
        ".cache",
        ".lock",
        ".toml",
        ".cfg",
        ".npy",
        ".npz",
    ),
    *(".pt", ".pth", ".onnx", ".mat", ".parquet", ".h5"),
)
"""Files that are certainly none, and are not looked into."""
HEAD_BYTES = 512
TS_PACKETS = ((0, 188), (4, 192))
"""Where the first packet of an MPEG transport stream begins, and how many bytes later the next one does."""
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


def image_by_name(path: str) -> bool:
    """Whether a file is taken for an image by its suffix."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_image(head: bytes) -> bool:
    """Whether a file that starts with these bytes is an image of a format that can be read."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == bytes(4))
        or (head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS)
    )


def is_video(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a video: MP4 and its kin, Matroska, AVI, MPEG, ASF, FLV.

    Nothing else is given to FFmpeg, which also opens texts that name other files and addresses (playlists).
    """
    return not is_image(head) and (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
        or head.startswith((b"\x1aE\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"FLV\x01"))
        or head.startswith(bytes.fromhex("3026b2758e66cf11"))
        or (head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"AVIX"))
        or any(head[start : start + 1] == head[start + size : start + size + 1] == b"G" for start, size in TS_PACKETS)
    )


def may_be_image(path: str) -> bool:
    """Whether a look into the file is needed to say if it is an image: it has no suffix, or an unknown one."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix not in IMAGE_SUFFIXES and suffix not in OTHER_SUFFIXES
