"""Reading what wandb has written offline."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: protocol buffers in LevelDB's log format.

    After 7 bytes of file header come blocks of 32 KiB of chunks, each a checksum (4 bytes), a
    length (2) and a type (1): 1 whole, 2 first, 3 middle, 4 last.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    if len(content) < HEADER:  # its writer has not come so far
        return
    assert content[:4] == b":W&B"
    place, whole = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        if kind == 0 or place + HEADER + length > len(content):
            break
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""
