"""Pictures of label maps: laid over the photograph with a legend, and a sheet of the worst and best images."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from acmix_jax.errors import printable
from acmix_jax.ops.losses import IGNORED

ROW, SWATCH = 22, 16  # pixels of a legend's row, and of its coloured square


def overlay(picture: np.ndarray, labels: np.ndarray, colors: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """The picture with each labelled pixel tinted in the colour of its class.

    Args:
      picture: uint8 `[H, W, 3]`.
      labels: `[H, W]`, below K or 255, where the picture stays as it is.
      colors: uint8 `[K, 3]`.

    Returns:
      uint8 `[H, W, 3]`.
    """
    known = labels != IGNORED
    tint = np.where(known[..., None], colors[np.where(known, labels, 0)], picture)
    return np.round((1 - opacity) * picture + opacity * tint).astype(np.uint8)


def write(
    predictions: Iterable[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], colors: np.ndarray, out: Path
) -> list[Path]:
    """Writes pictures of predicted label maps and the share of each class.

    Args:
      predictions: name, picture uint8 `[H, W, 3]` and label map `[H, W]` of each image.
      classes: their names.
      colors: uint8 `[K, 3]`.
      out: the folder to write to.

    Returns:
      out/predictions/, with NAME_overlay.png (the tinted picture with a legend of the classes present) and
      NAME_labels.png (the label map, with the colours as its palette) of each image; out/predictions.csv, a row for
      each image and class present with its per cent of the pixels.
    """
    folder, table = out / "predictions", out / "predictions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "class", "per_cent"])
        for name, picture, labels in predictions:
            shares = shares_of(labels, len(classes))
            rows.writerows([name, printable(classes[label]), f"{share:.2f}"] for label, share in shares)
            target = folder / PurePosixPath(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            tinted = Image.fromarray(overlay(picture, labels, colors))
            _beside(tinted, _legend(shares, classes, colors)).save(target.with_name(f"{target.name}_overlay.png"))
            indices = Image.fromarray(labels.astype(np.uint8), "P")
            palette = colors.astype(np.uint8).tobytes()
            indices.putpalette(palette.ljust(3 * 256, b"\xff"))  # of all 256, so that Pillow keeps the label 255
            indices.save(target.with_name(f"{target.name}_labels.png"))
    return [table, folder]


def shares_of(labels: np.ndarray, num_classes: int) -> list[tuple[int, float]]:
    """Class and per cent of the labelled pixels of each class present, the largest first."""
    counts = np.bincount(labels[labels != IGNORED].ravel(), minlength=num_classes)
    shares = 100 * counts / max(1, counts.sum())
    return [(int(label), float(shares[label])) for label in np.argsort(-counts, kind="stable") if counts[label]]


def sheet(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str], colors: np.ndarray,
    path: Path,
) -> Path:  # fmt: skip
    """Draws a row for each image: the picture, its annotation and the prediction; a legend of the classes below.

    Args:
      rows: title, picture uint8 `[H, W, 3]`, annotation and prediction `[H, W]` each.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.patches import Patch

    present = np.unique(np.concatenate([maps.ravel() for _, _, *both in rows for maps in both]))
    present = [label for label in present.tolist() if label != IGNORED]
    legend_rows = -(-len(present) // 6)
    figure = Figure(figsize=(9, 2.4 * len(rows) + 0.25 * legend_rows + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for axes, (title, picture, annotation, prediction) in zip(panels, rows, strict=True):
        tinted = [overlay(picture, labels, colors, 0.7) for labels in (annotation, prediction)]
        for panel, image in zip(axes, (picture, *tinted), strict=True):
            panel.imshow(image)
            panel.axis("off")
        axes[0].set_title(title.replace("$", r"\$"), fontsize=8, loc="left")
    for panel, heading in zip(panels[0][1:], ("annotation", "prediction"), strict=True):
        panel.set_title(heading, fontsize=8)
    names = [printable(classes[label]).replace("$", r"\$") for label in present]
    patches = [Patch(color=colors[label] / 255, label=name) for label, name in zip(present, names, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    return path


def _legend(shares, classes, colors):
    """White picture with a line for each class: colour, name, per cent."""
    font = ImageFont.load_default(size=13)
    lines = [f"{printable(classes[label])[:30]}  {share:.1f} %" for label, share in shares]
    width = SWATCH + 20 + max((int(font.getlength(line)) for line in lines), default=0)
    legend = Image.new("RGB", (width, ROW * len(lines) + 6), "white")
    draw = ImageDraw.Draw(legend)
    for row, ((label, _), line) in enumerate(zip(shares, lines, strict=True)):
        top = 6 + ROW * row
        draw.rectangle((6, top, 6 + SWATCH, top + SWATCH), fill=tuple(colors[label].tolist()))
        draw.text((SWATCH + 14, top), line, fill="black", font=font)
    return legend


def _beside(picture, legend):
    """Both on a white page, the legend on the right."""
    page = Image.new("RGB", (picture.width + legend.width, max(picture.height, legend.height)), "white")
    page.paste(picture)
    page.paste(legend, (picture.width, 0))
    return page
