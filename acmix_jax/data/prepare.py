"""Packs a folder of images into array_record shards, and checks each image on the way.

python -m acmix_jax.data.prepare --folder=IMAGES --out=DIR

IMAGES holds train/<class>/*.jpg and val/<class>/*.jpg (see folder.py). Train from the result with
--config.data.source=records --config.data.dir=DIR. If the program is stopped, the same command continues. A warning
says why an image is corrupt or cannot be read. All are listed in DIR/damaged.txt, one a line (see `printable` for odd
names); they end the program with an error once all others are checked, or are left out with --skip-damaged.
"""

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from acmix_jax.config import local_path
from acmix_jax.data import photos
from acmix_jax.data.array_records import CONTENTS, count_records, shard_path, to_record
from acmix_jax.data.folder import FolderSource
from acmix_jax.errors import UserError, one_line_errors, printable
from acmix_jax.run.progress import Progress

PLAN = "plan.json"  # what the shards in a folder are made of, so that nothing else is mixed with them


def prepare(folder: Path, out: Path, images_per_shard: int, threads: int, skip_damaged: bool) -> str:
    """Writes the shards that are not there yet, and dataset.json last; returns a summary.

    Raises:
      UserError: images are corrupt; `out` holds other images; one of the folders cannot be read or written.
    """
    sources = {split: FolderSource(str(folder), split) for split in ("train", "test")}
    jobs = []
    for split, source in sources.items():
        firsts = range(0, len(source), images_per_shard)
        for i, first in enumerate(firsts):
            indices = range(first, min(first + images_per_shard, len(source)))
            jobs.append((source, indices, shard_path(out, split, i, len(firsts))))
    _claim(out, sources, images_per_shard, skip_damaged)
    waiting = [job for job in jobs if not job[-1].exists()]
    total, done = sum(map(len, sources.values())), sum(len(job[1]) for job in jobs if job not in waiting)
    progress, corrupt = Progress(total, done, batch_size=1, unit="image"), []
    with ThreadPoolExecutor(threads) as pool:  # decoding and writing leave Python's lock alone
        running = {pool.submit(_write_shard, *job, skip_damaged): job for job in waiting}
        try:
            for future in as_completed(running):
                done += len(running[future][1])
                corrupt += future.result()
                progress.update(done, progress.rate(done), f"{len(corrupt)} corrupt")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    corrupt += [name for path in out.glob("*.damaged") for name in path.read_text("utf-8").splitlines()]
    corrupt = sorted(set(corrupt))
    (out / "damaged.txt").unlink(missing_ok=True)
    if corrupt:
        (out / "damaged.txt").write_text("".join(f"{name}\n" for name in corrupt), "utf-8")
    if corrupt and not skip_damaged:
        raise UserError(
            f"{len(corrupt)} images such as {corrupt[0]} are corrupt or cannot be read, as listed in "
            f"{out / 'damaged.txt'}; replace them and start again, or add --skip-damaged"
        )
    splits = {}
    for split, source in sources.items():
        shards = [str(job[-1]) for job in jobs if job[0] is source]
        splits[split] = {"shards": len(shards), "images": count_records(shards)}
    contents = {"classes": sources["train"].classes, "splits": splits}
    _replace(out / CONTENTS, json.dumps(contents, indent=2) + "\n")
    train, test = (splits[split]["images"] for split in ("train", "test"))
    return f"{train:,} training and {test:,} test images are in {printable(str(out))}"


def _claim(out, sources, images_per_shard, skip_damaged):
    """Makes `out`, or checks that what is in it was begun with the same files and options."""
    files = os.fsencode("\n".join(name for source in sources.values() for name in source.names()))
    plan = {
        "files": hashlib.sha256(files).hexdigest(),
        "images_per_shard": images_per_shard,
        "skip_damaged": skip_damaged,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = json.loads((out / PLAN).read_text()) if (out / PLAN).exists() else plan
        if before not in (plan, plan | {"skip_damaged": False}):  # shards without --skip-damaged are whole
            raise UserError(f"{out} holds shards of other images or options; choose another --out, or empty it")
        _replace(out / PLAN, json.dumps(plan) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); choose another --out") from error


def _write_shard(source, indices, path, skip_damaged):
    """Writes a shard; returns the names of its corrupt images, which prevent it unless `skip_damaged`."""
    corrupt, partial = [], path.with_suffix(".partial")
    try:
        writer = ArrayRecordWriter(str(partial), "group_size:1")
        for index in indices:
            try:
                example = source[index]
                photos.decode(example["image"])
            except photos.CorruptImage as error:
                print(f"warning: {error}", file=sys.stderr)
                corrupt.append(source.name(index))
            else:
                writer.write(to_record(example["image"], example["label"]))
        writer.close()
        if corrupt and not skip_damaged:
            partial.unlink()
            return corrupt
        if corrupt:  # before the shard, so that a later run that finds the shard knows them, too
            path.with_suffix(".damaged").write_text("".join(f"{name}\n" for name in corrupt), "utf-8")
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {partial} ({error}); free some space there and start again") from error
    return corrupt


def _replace(path, text):
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def main() -> None:
    """Prepares the folder that the arguments name; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(prog="acmix_jax.data.prepare", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", required=True, type=local_path, help="with train/<class>/*.jpg, val/<class>/*.jpg")
    parser.add_argument("--out", required=True, type=local_path, help="folder to write")
    parser.add_argument("--images-per-shard", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip-damaged", action="store_true", help="leave corrupt images out")
    arguments = parser.parse_args()
    with one_line_errors():
        if min(arguments.images_per_shard, arguments.threads) < 1:
            raise UserError("--images-per-shard and --threads must be at least 1")
        try:
            print(prepare(**vars(arguments)))
        except KeyboardInterrupt:
            sys.exit("stopped; the same command continues")


if __name__ == "__main__":
    main()
