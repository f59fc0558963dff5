"""LMDB files of faces, written by LMDB's own library as the code of Vec2Face does."""

import lmdb
import msgpack


def write_lmdb(path, records, described=None, *, in_order=True, subdir=False):
    """A file of (image file, label) by number.

    Args:
        path: the file.
        records: values, by their numbers; bytes are written as they are.
        described: what else is written, by key; without it what belongs there.
        in_order: by number, in transactions of 50; else from the last to the first, in one.
        subdir: `path` is a folder, for data.mdb and lock.mdb.
    """
    labels = {record[-1] for record in records.values() if not isinstance(record, bytes)}
    if described is None:
        described = {
            "__keys__": [str(k).encode("ascii") for k in range(len(records))],
            "__len__": len(records),
            "__classnum__": max(labels) + 1,
        }
    database = lmdb.open(str(path), subdir=subdir, map_size=1 << 26, meminit=False)
    numbers = list(records) if in_order else list(reversed(records))
    size = 50 if in_order else max(1, len(numbers))
    for start in range(0, len(numbers), size):
        with database.begin(write=True) as transaction:
            for number in numbers[start : start + size]:
                record = records[number]
                value = record if isinstance(record, bytes) else msgpack.dumps(record)
                transaction.put(str(number).encode("ascii"), value)
    with database.begin(write=True) as transaction:
        for key, value in described.items():
            transaction.put(key.encode("ascii"), msgpack.dumps(value))
    database.sync()
    database.close()
