"""Parameters and multiply-adds of each model, split into the two stages of the paper's table 1.

python -m acmix_jax.analysis.complexity --model=all --csv=complexity.csv
python -m acmix_jax.analysis.complexity --model="*swin_tiny" --head=upernet --image-size=512x2048

Convention. This counts the multiply-adds of every matrix product and convolution in the jaxpr of the model, for one
image; zeros that pad a map count like its pixels. Element-wise work (including biases and the sum of the two paths),
norms, softmax and pooling are not counted; other counters add some of it, which makes 0.1 % for Swin and 3 to 5 % for
SAN. The count is of the operator's definition, not of the form that runs fastest. It includes products that do not
depend on the image: the position maps, and the interpolation of PVT's position embeddings to another image size.

Stage I is the three projections, with the convolution that makes PVT's coarser map for k and v. In a plain ResNet,
Stage I is the 3x3 convolutions: in the paper's view nine projections, whose Stage II, shift and sum, only adds. Stage
II is the two aggregations, with the network that computes SAN's weights, the position terms, fc and the shift kernel.
The rest is everything else, including the linear map after the attention (Swin, PVT), alpha and beta.

Of a network for segmentation, the neck and the heads are counted apart. Its auxiliary head, which is there for training
alone, has parameters and no multiply-adds.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from acmix_jax.errors import UserError, check_choice, one_line_errors
from acmix_jax.models import FAMILIES, create_model, create_segmenter, list_models, parse_name
from acmix_jax.weights.names import PART_OF

PARTS = ("stage1", "stage2_attention", "stage2_convolution", "rest")

PAPER = {  # as printed, in millions of parameters and billions of multiply-adds at 224 x 224
    "acmix_resnet26": ("10.6", "2.3"),  # ACmix: Pan et al., figure 4, and the README of the released code
    "acmix_resnet38": ("14.6", "2.9"),
    "acmix_resnet50": ("18.6", "3.6"),
    "acmix_san10": ("12.1", "1.9"),
    "acmix_san15": ("16.6", "2.7"),
    "acmix_san19": ("21.2", "3.4"),
    "acmix_pvt_tiny": ("13", "2.0"),
    "acmix_pvt_small": ("25", "3.9"),
    "acmix_swin_tiny": ("30", "4.6"),
    "acmix_swin_small": ("51", "9.0"),
    "resnet26": ("13.7", "2.4"),  # plain: the papers and READMEs of SAN (which has the ResNets too), PVT and Swin
    "resnet38": ("19.6", "3.2"),
    "resnet50": ("25.6", "4.1"),
    "san10": ("11.8", "1.9"),
    "san15": ("16.2", "2.6"),
    "san19": ("20.5", "3.3"),
    "san10_pairwise": ("10.5", "2.2"),
    "san15_pairwise": ("14.1", "3.0"),
    "san19_pairwise": ("17.6", "3.8"),
    "pvt_tiny": ("13.2", "1.9"),
    "pvt_small": ("24.5", "3.8"),
    "pvt_medium": ("44.2", "6.7"),
    "pvt_large": ("61.4", "9.8"),
    "swin_tiny": ("29", "4.5"),
    "swin_small": ("50", "8.7"),
    "swin_base": ("88", "15.4"),
}

_DEFINITION = {"shift_form": "slices", "attention_form": "reference"}  # the fast forms do more multiply-adds, or fewer


class Complexity(NamedTuple):
    """Cost of a model by part."""

    params: dict[str, int]
    macs: dict[str, int]  # multiply-adds for one image


def complexity(
    name: str,
    image_size: int | tuple[int, int] = 224,
    num_classes: int | None = None,
    channels: int = 3,
    head: str | None = None,
    **acmix: Any,
) -> Complexity:
    """Counts parameters and multiply-adds of a model for one image.

    Args:
      name: of a classifier, or of the backbone of a segmenter.
      image_size: side of the image, or (height, width).
      num_classes: None for 1000, or 150 of a segmenter.
      channels: of the image.
      head: of `create_segmenter`, whose result has one more part, "head", with the neck; None for a classifier.
      **acmix: fields of the ACmix layers.

    Raises:
      UserError: no such model or head, or an image too small for it.
    """
    parsed = parse_name(name)
    fields = FAMILIES[parsed.family].fields if parsed.is_acmix else ()
    acmix |= {field: form for field, form in _DEFINITION.items() if field in fields}
    if head is None:
        model, parts, method = create_model(name, num_classes or 1000, **acmix), PARTS, "__call__"
    else:
        model, method = create_segmenter(name, head, num_classes or 150, **acmix), "with_auxiliary"
        parts = (*PARTS, "head")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise UserError(f"image_size={height}x{width} is not valid; use whole numbers from 1")
    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    # One trace gives both: init_with_output applies the model, and drawing the parameters takes no products.
    trace = jax.make_jaxpr(partial(model.init_with_output, method=method), return_shape=True)
    program, (_, variables) = trace(jax.random.key(0), images)
    params, macs = Counter(dict.fromkeys(parts, 0)), Counter(dict.fromkeys(parts, 0))
    for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items():
        inside = path[path.index("mixer") + 1] if "mixer" in path else None
        is_head = "head" in parts and path[0] != "backbone"
        params["head" if is_head else PART_OF.get(inside, "rest")] += leaf.size
    for scope, count in multiply_adds(program.jaxpr):
        scopes = scope.split("/")
        if "auxiliary" not in scopes:
            is_head = "head" in parts and not {"neck", "head"}.isdisjoint(scopes)
            macs["head" if is_head else part_of(scopes)] += count
    return Complexity(dict(params), dict(macs))


def operator_cost(
    features: int, num_heads: int, window_size: int = 7, kernel_size: int = 3, pixels: int = 1, outputs: int = 1
) -> Complexity:
    """The paper's table 1 in closed form: ResNet's ACmix layer from `pixels` to `outputs` pixels (fewer with a stride).

    Of C = `features` and N = `num_heads`, Stage I takes 3 C^2 multiply-adds a pixel, attention 2 k_a^2 C, the
    convolution 3 k_c^2 C (fc) and k_c^4 C (shift), with 3 N k_c^2 and k_c^4 C parameters. Beyond the table: the
    parameters of the biases, and the position term.
    """
    dim, taps = features // num_heads, kernel_size**2
    params = (3 * features**2 + 3 * features, 3 * dim, 3 * num_heads * taps + taps**2 * features, 2)
    stage1 = 3 * features**2 * pixels
    attention = 2 * window_size**2 * features * outputs + 2 * dim * pixels
    convolution = 3 * taps * features * pixels + taps**2 * features * outputs
    macs = (stage1, attention, convolution, 0)
    return Complexity(dict(zip(PARTS, params, strict=True)), dict(zip(PARTS, macs, strict=True)))


def multiply_adds(jaxpr: Jaxpr, scope: str = "") -> Iterator[tuple[str, int]]:
    """Each matrix product and convolution in `jaxpr`: (its named scopes, joined by "/"; its multiply-adds).

    The body of a scan counts as often as it runs, that of a while loop once, and all branches of a condition count.
    """
    for equation in jaxpr.eqns:
        # An inner jaxpr knows only the scopes opened inside it.
        here = f"{scope}/{equation.source_info.name_stack}"
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            sizes = equation.invars[0].aval.shape
            yield here, equation.outvars[0].aval.size * math.prod(sizes[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval  # has the input channels of one group only
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            yield here, equation.outvars[0].aval.size * kernel.size // outputs
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner_jaxprs(equation.params.values()):
            yield from ((path, times * count) for path, count in multiply_adds(inner, here))


def _inner_jaxprs(parameters) -> Iterator[Jaxpr]:
    for parameter in parameters:
        for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                yield inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def part_of(scopes: list[str]) -> str:
    """The part that named scopes belong to: those of the modules (flax opens one for each) and of `ACmix`."""
    # proj lies in the scope of the attention, but neither projects for both paths nor aggregates.
    if "mixer" not in scopes or "proj" in scopes or "weighted_sum" in scopes:
        return "rest"
    return next((part for part in PARTS if part in scopes), "stage1")  # without any: the plain ResNet's convolution


def main() -> None:
    """Prints the table, and writes it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help='a name, a pattern such as "acmix_*", or all')
    parser.add_argument("--head", help="semantic_fpn or upernet, of a segmenter; without it, of a classifier")
    parser.add_argument("--image-size", type=_size, default=(224, 224), help="side in pixels, or HEIGHTxWIDTH")
    parser.add_argument("--csv", type=Path, help="file for the exact numbers")
    arguments = parser.parse_args()
    with one_line_errors():
        names = list_models("*" if arguments.model == "all" else arguments.model)
        if not names:
            check_choice("model", arguments.model, list_models())
        if arguments.csv:  # before the work, for a path that cannot be
            arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        rows = list(_print_rows(names, arguments.image_size, arguments.head))
        if arguments.csv:
            with arguments.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)


def _size(text: str) -> tuple[int, int]:
    """The type of --image-size."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _print_rows(names: list[str], size: tuple[int, int], head: str | None) -> Iterator[dict[str, Any]]:
    """Prints the table line by line, and yields each line with its exact numbers."""
    titles = ["all", "I", "II att", "II conv", "rest"] + ["head"] * (head is not None)
    columns, width = "".join(f"{title:>8}" for title in titles), 8 * len(titles)
    pixels = "x".join(map(str, size))
    caption = f"""\
One image of {pixels} pixels, {f"150 classes, {head}" if head else "1000 classes"}.
Multiply-adds of matrix products and convolutions, counted from the jaxpr; element-wise work, norms, softmax and pooling
are not counted.
I: projections (of a plain ResNet the 3x3 convolutions). II: aggregation as attention and as convolution.
Paper: as its authors report, for classification at 224x224.

{"":26}{"parameters (M)":>{width}} {"multiply-adds (G)":>{width}} {"paper":>12}
{"model":26}{columns} {columns} {"M":>6}{"G":>6}"""
    for name in names:
        cost, line = complexity(name, size, head=head), f"{name:26}"
        row = {"model": name, "image_size": size[0] if size[0] == size[1] else pixels}
        row |= {"head": head} if head else {}
        if name == names[0]:  # here, so that a size which is too small brings out its error alone
            print(caption)
        for (what, parts), unit in zip(cost._asdict().items(), (1e6, 1e9), strict=True):
            numbers = {what: sum(parts.values())} | {f"{what}_{part}": count for part, count in parts.items()}
            line += "".join(f"{count / unit:8.3f}" for count in numbers.values()) + " "
            row |= numbers
        params, macs = ("", "") if head else PAPER.get(name, ("", ""))
        print(f"{line}{params:>6}{macs:>6}".rstrip(), flush=True)
        yield row | {"paper_params_millions": params, "paper_macs_billions": macs}


if __name__ == "__main__":
    main()
