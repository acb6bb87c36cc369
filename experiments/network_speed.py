"""Time and memory of whole networks: ACmix against the plain network, and against the released PyTorch code.

python -m experiments.network_speed --out=runs/network_speed --released-code=ACmix

The networks of one family are compiled first and then run in turns. "forward" is evaluation, "folded forward" the same
after folding the weights, "train" a step of SGD with momentum on cross entropy. --attention-forms=kernel measures
ResNet-ACmix with this form of attention, too. Writes network_speed.csv after each family; without a clone of the
released code its rows are missing and the printed table says "not measured". Needs the base dependencies alone, and
torch for the released code.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax import create_model, list_models
from acmix_jax.analysis.complexity import complexity
from acmix_jax.benchmark.timing import (
    Program,
    Row,
    compile_all,
    compiled,
    compiled_step,
    device_name,
    in_turns,
    parser_of,
    quartiles,
)
from acmix_jax.errors import check_choice, one_line_errors
from acmix_jax.models import parse_name
from acmix_jax.ops import neighborhood
from acmix_jax.weights.fold import fold
from experiments import released_code, results

NETWORKS = "resnet26,resnet50,swin_tiny,pvt_tiny,san10"


def plain_networks(names: str) -> list[str]:
    """Splits names joined by commas; raises a UserError with the nearest names for one that is no plain network."""
    networks = names.split(",")
    for name in networks:
        check_choice("plain network", name, [model for model in list_models() if not parse_name(model).is_acmix])
    return networks


def programs(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], Program]]:
    """Compile evaluation, evaluation with folded weights, and train step of one of our networks, by pass."""
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    images, labels = jnp.asarray(images), jnp.asarray(labels)

    def train(state, images, labels):
        params, momentum, statistics = state

        def loss_of(params):
            logits, changed = model.apply({"params": params, **statistics}, images, train=True, mutable=["batch_stats"])
            return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean(), changed

        (_, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
        return jax.tree.map(lambda p, m: p - 1e-3 * m, params, momentum), momentum, statistics

    params = variables["params"]
    statistics = {name: value for name, value in variables.items() if name != "params"}
    state = jax.tree.map(jnp.copy, (params, jax.tree.map(jnp.zeros_like, params), statistics))
    return {
        "forward": partial(compiled, model.apply, variables, images),
        "folded forward": partial(compiled, model.apply, jax.device_put(fold(variables)), images),
        "train": partial(compiled_step, train, state, images, labels),
    }


def measure(plain: str, arguments: argparse.Namespace) -> Iterator[Row]:
    """Measures one family and yields its rows: the plain network, ours with ACmix, and the released one."""
    size, batch, dtype = arguments.img_size, arguments.batch, arguments.dtype
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    labels = rng.integers(0, 1000, batch)
    fields = {} if plain.startswith(("resnet", "san")) else {"drop_path": 0.0}
    models = {(name, "acmix_jax"): create_model(name, dtype=dtype, **fields) for name in (plain, f"acmix_{plain}")}
    for form in arguments.attention_forms if plain.startswith("resnet") else ():
        model = create_model(f"acmix_{plain}", dtype=dtype, attention_form=form)
        models[f"acmix_{plain}", f"acmix_jax {form}"] = model
    waiting = {(*key, way): p for key, model in models.items() for way, p in programs(model, images, labels).items()}
    timed = compile_all(waiting)
    name = f"acmix_{plain}"
    if arguments.released_code and name in released_code.NETWORKS:
        network = released_code.network(arguments.released_code, name)
        ways = released_code.programs(network, images, labels, dtype)
        timed |= {(name, "released", way): p for way, p in ways.items()}
    costs = {name: complexity(name, size) for name in (plain, f"acmix_{plain}")}
    for (name, implementation, way), times in in_turns(timed, arguments.rounds).items():
        low, middle, high = quartiles(times)
        program, cost = timed[name, implementation, way], costs[name]
        yield Row(
            name, size, batch, dtype, 1e3 * batch / middle, middle, sum(cost.macs.values()) / 1e9,
            sum(cost.params.values()) / 1e6, program.peak_memory_mb, way, implementation, low, high,
            program.compile_s, device_name(),
        )  # fmt: skip


def show(rows: list[Row]) -> None:
    """Prints each row with its ratios to the plain network and to the released code."""
    step = {(row.model, row.implementation, row.pass_): row.step_time_ms for row in rows}
    for row in rows:
        name = parse_name(row.model)
        plain = step[name.plain, "acmix_jax", row.pass_]
        released = step.get((row.model, "released", row.pass_.removeprefix("folded ")))
        ratio = "released: not measured" if released is None else f"released takes {released / row.step_time_ms:.2f} x"
        memory = "" if row.peak_memory_mb is None else f"{row.peak_memory_mb:,.0f} MB"
        compile_s = "" if row.compile_s is None else f"compiled in {row.compile_s:.0f} s"
        print(
            f"{row.model:17} {row.implementation:16} {row.pass_:14}{row.step_time_ms:9.1f} ms "
            f"({row.step_time_q1_ms:.1f} to {row.step_time_q3_ms:.1f}){row.step_time_ms / plain:6.2f} x plain  "
            f"{ratio if name.is_acmix else '':24} {memory:>10} {compile_s}".rstrip(),
            flush=True,
        )


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--networks", default=NETWORKS, help="plain names, joined by commas")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--attention-forms", default="", help="of ResNet-ACmix, beside the default one")
    arguments = parser.parse_args()
    arguments.attention_forms = list(filter(None, arguments.attention_forms.split(",")))
    for form in arguments.attention_forms:
        check_choice("form of attention", form, neighborhood.FORMS)
    networks = plain_networks(arguments.networks)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{device_name()}; batch {arguments.batch}, {arguments.dtype}; median (quartiles) of {arguments.rounds}")
    rows: list[Row] = []
    for plain in networks:
        family = list(measure(plain, arguments))
        show(family)
        rows += family
        results.write_table(arguments.out / "network_speed.csv", rows)
        results.write_record(arguments.out, __doc__, "measured here")


if __name__ == "__main__":
    main()
