"""Time of each form of the ACmix layer, of the plain layer that it replaces, and of the released PyTorch code.

python -m experiments.operator_speed --out=runs/operator_speed --released-code=ACmix

The layers are the 3x3 layers of ResNet-50 and the mixing layers of Swin-T, PVT-T and SAN10 at 224 x 224 pixels; forward
alone, and forward with backward of a loss that depends on the output. All programs of one layer are measured in turns;
--forms=acmix,"attention kernel" leaves out all forms but these and the plain layer.
Writes operator_speed.csv after each layer; without a clone of the released code its rows are missing. Needs the base
dependencies alone, and torch for the released code.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax import ACmix
from acmix_jax.analysis.complexity import multiply_adds
from acmix_jax.benchmark.timing import Program, Row, compile_all, compiled, device_name, in_turns, parser_of, quartiles
from acmix_jax.errors import check_choice, one_line_errors
from acmix_jax.layers.attention import GlobalAttention, LocalAttention, PatchwiseAttention, WindowAttention
from acmix_jax.layers.self_attention import SelfAttention
from acmix_jax.ops import neighborhood, shift
from experiments import released_code, results


class Layer(NamedTuple):
    """One mixing layer of a network."""

    family: str
    size: int  # height and width of its input
    in_features: int
    features: int
    fields: dict[str, Any]  # of SelfAttention

    def __str__(self):
        stride = f" s{self.fields['stride']}" if self.fields.get("stride", 1) > 1 else ""
        return f"{self.family} {self.features}@{self.size}{stride}"


def _layers() -> Iterator[Layer]:
    resnet = ((56, 64, 1), (28, 128, 1), (14, 256, 1), (7, 512, 1), (56, 128, 2), (28, 256, 2), (14, 512, 2))
    for size, features, stride in resnet:
        yield Layer("resnet", size, features, features, {"stride": stride})
    for size, features, heads in ((56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24)):
        fields = {"num_heads": heads, "attention_kind": WindowAttention, "use_proj": True}
        yield Layer("swin", size, features, features, fields)
    for size, features, heads, reduction in ((56, 64, 1, 8), (28, 128, 2, 4), (14, 320, 5, 2), (7, 512, 8, 1)):
        fields = {"num_heads": heads, "attention_kind": GlobalAttention, "use_proj": True, "reduction": reduction}
        yield Layer("pvt", size, features, features, fields)
    for size, in_features, window in ((112, 64, 3), (56, 256, 7), (28, 512, 7), (14, 1024, 7), (7, 2048, 7)):
        attention = partial(PatchwiseAttention, window_size=window)
        yield Layer("san", size, in_features, in_features // 4, {"qk_heads": 1, "attention_kind": attention})


LAYERS = tuple(_layers())


def forms(layer: Layer) -> dict[str, nn.Module]:
    """The modules to compare, by name; "plain" is the layer of the network without ACmix."""
    acmix: Callable[..., nn.Module] = partial(ACmix, layer.features, fc_bias=layer.family == "swin", **layer.fields)
    attention: Callable[..., nn.Module] = partial(SelfAttention, layer.features, **layer.fields)
    modules = {"acmix": acmix(), "plain": attention()}
    if layer.family == "resnet":
        stride = layer.fields["stride"]
        modules["plain"] = nn.Conv(layer.features, (3, 3), stride, padding=1, use_bias=False)
        for form in neighborhood.FORMS:
            modules[f"attention {form}"] = attention(attention_kind=partial(LocalAttention, form=form))
    return modules | {f"convolution {form}": acmix(shift_form=form, paths="convolution") for form in shift.FORMS}


def programs(module: nn.Module, x: jax.Array, dtype: str) -> dict[str, Callable[[], Program]]:
    """Compile the forward pass, and forward with backward, of a module, by name."""
    module = module.clone(dtype=dtype)
    variables = jax.jit(module.init)(jax.random.key(0), x)

    def loss(variables, x):
        return (module.apply(variables, x).astype(jnp.float32) ** 2).sum()

    backward = jax.value_and_grad(loss, argnums=(0, 1))
    return {
        "forward": partial(compiled, module.apply, variables, x),
        "forward+backward": partial(compiled, backward, variables, x),
    }


def measure(layer: Layer, arguments: argparse.Namespace) -> Iterator[Row]:
    """Measures one layer and yields its rows."""
    shape = (arguments.batch, layer.size, layer.size, layer.in_features)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x = jnp.asarray(images, arguments.dtype)
    modules = forms(layer)
    if arguments.forms:
        modules = {name: module for name, module in modules.items() if name in (*arguments.forms, "plain")}
    waiting = {(name, way): p for name, m in modules.items() for way, p in programs(m, x, arguments.dtype).items()}
    timed = compile_all(waiting)
    if arguments.released_code and layer.family == "resnet":
        operator = released_code.operator(arguments.released_code, layer.features, layer.fields["stride"])
        ways = released_code.programs(operator, images, dtype=arguments.dtype)
        timed |= {("released", way): program for way, program in ways.items()}
    costs = {name: _cost(module, x[:1]) for name, module in modules.items()}
    definition = forms(layer)["acmix"].clone(shift_form="slices")
    if layer.family == "resnet":
        definition = definition.clone(attention_kind=partial(LocalAttention, form="reference"))
    costs["released"] = _cost(definition, x[:1])
    for (name, way), times in in_turns(timed, arguments.rounds).items():
        low, middle, high = quartiles(times)
        program, (gmacs, params) = timed[name, way], costs[name]
        yield Row(
            str(layer), layer.size, arguments.batch, arguments.dtype, 1e3 * arguments.batch / middle, middle, gmacs,
            params, program.peak_memory_mb, way, name, low, high, program.compile_s, device_name(),
        )  # fmt: skip


def _cost(module, x):
    """Billions of multiply-adds per image in this form, and millions of parameters."""
    program, (_, variables) = jax.make_jaxpr(module.init_with_output, return_shape=True)(jax.random.key(0), x)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return sum(count for _, count in multiply_adds(program.jaxpr)) / 1e9, params / 1e6


def show(rows: list[Row]) -> None:
    """Prints the time of each form and its ratio to the plain layer's."""
    step = {(row.implementation, row.pass_): row.step_time_ms for row in rows}
    for name in dict.fromkeys(row.implementation for row in rows):
        line = f"{rows[0].model:18} {name:26}"
        for way in ("forward", "forward+backward"):
            line += f"  {way} {step[name, way]:8.1f} ms ={step[name, way] / step['plain', way]:6.2f} x plain"
        print(line, flush=True)
    if "released" not in {row.implementation for row in rows}:
        print(f"{rows[0].model:18} released                    not measured", flush=True)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--layers", default="all", help='names such as "resnet 64@56", joined by commas')
    parser.add_argument("--forms", default="", help="joined by commas; default: all")
    arguments = parser.parse_args()
    arguments.forms = list(filter(None, arguments.forms.split(",")))
    for form in arguments.forms:
        check_choice("form", form, {name for layer in LAYERS for name in forms(layer)})
    layers = {str(layer): layer for layer in LAYERS}
    names = list(layers) if arguments.layers == "all" else arguments.layers.split(",")
    for name in names:
        check_choice("layer", name, layers)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{device_name()}; batch {arguments.batch}, {arguments.dtype}; median of {arguments.rounds} rounds")
    rows: list[Row] = []
    for name in names:
        measured = list(measure(layers[name], arguments))
        show(measured)
        rows += measured
        results.write_table(arguments.out / "operator_speed.csv", rows)
        results.write_record(arguments.out, __doc__, "measured here")


if __name__ == "__main__":
    main()
