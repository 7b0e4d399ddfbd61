"""Reads the event files of trainings with TensorBoard's own reader and compares
every scalar with the metrics table beside it.

    python tests/golden/check_events.py data/metrics/demo/iter-1/v1 ...

Needs the packages tensorboard and pyarrow. TensorBoard keeps f32, so that is
how equal they are.
"""

import struct
import sys
from pathlib import Path

import pyarrow.parquet as pq
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def main(folders):
    for folder in map(Path, folders):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        rows = pq.read_table(sorted(folder.glob("part-*.parquet"))).to_pydict()
        columns = {name.replace("/", "").replace("_", ""): name for name in rows}
        compared = 0
        for tag in events.Tags()["scalars"]:
            # Tags may stand below a group: train/loss is the column loss.
            name = next((columns[key] for key in keys(tag) if key in columns), None)
            if name is None:
                sys.exit(f"{folder}: tag {tag} is no column of the metrics table {sorted(rows)}")
            table = {u: v for u, v in zip(rows["update"], rows[name]) if v is not None}
            seen = {event.step: event.value for event in events.Scalars(tag)}
            if seen.keys() != table.keys():
                sys.exit(f"{folder}: {tag} has {len(seen)} steps, the column {name} {len(table)}")
            for step, value in seen.items():
                if value != f32(table[step]):
                    sys.exit(f"{folder}: {tag} is {value} at update {step}, the table has {table[step]}")
            compared += len(seen)
        if compared == 0:
            sys.exit(f"{folder}: TensorBoard reads no scalar of it")
        print(f"{folder}: {len(events.Tags()['scalars'])} tags, {compared} values equal")


def keys(tag):
    parts = tag.split("/")
    for start in range(len(parts)):
        yield "".join(parts[start:]).replace("_", "")


main(sys.argv[1:])
