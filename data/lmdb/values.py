"""Values of the LMDB file: an image file and a label, as a MessagePack array (https://msgpack.org)."""

ARRAY = 0x90  # of up to 15 items; the lower bits have their number
NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # by type, the bytes of the number
STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # by type, the bytes of the length
LARGEST_SMALL = 0x7F  # numbers up to this are one byte, without a type


def read_labelled_image(data: bytes) -> tuple[bytes, int]:
    """Image file and label of (image, label), or of (image, features, label) as Vec2Face trains with.

    Raises:
        ValueError: it is something else.
    """
    if not data or data[0] not in (ARRAY + 2, ARRAY + 3):
        raise ValueError("no MessagePack array of an image and a label")
    items: list[bytes | int] = []
    at = 1
    for _ in range(data[0] - ARRAY):
        item, at = _item(data, at)
        items.append(item)
    image, label = items[0], items[-1]
    if at != len(data) or not isinstance(image, bytes) or not isinstance(label, int):
        raise ValueError("no MessagePack array of an image and a label")
    return image, label


def read_number(data: bytes) -> int:
    """A whole number.

    Raises:
        ValueError: it is something else.
    """
    item, stop = _item(data, 0)
    if stop != len(data) or not isinstance(item, int):
        raise ValueError("no number")
    return item


def _item(data: bytes, at: int) -> tuple[bytes | int, int]:
    """The byte string or number at a position, and the position after it."""
    if at >= len(data):
        raise ValueError("it is cut off")
    kind = data[at]
    at += 1
    if kind <= LARGEST_SMALL:
        return kind, at
    if kind not in NUMBERS and kind not in STRINGS:
        raise ValueError(f"MessagePack type {kind:#x} where bytes or a number belong")
    stop = at + (NUMBERS | STRINGS)[kind]
    number = int.from_bytes(data[at:stop], "big")
    if kind in STRINGS:
        at, stop = stop, stop + number
    if stop > len(data):
        raise ValueError("it is cut off")
    return (data[at:stop] if kind in STRINGS else number), stop
