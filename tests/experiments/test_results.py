"""The experiments that train nothing, by their commands at smoke scale, and the page of all results."""

import csv
import html.parser
import json
import re
import sys
from pathlib import Path

import jax
import pytest

from acmix_jax.errors import UserError
from configs import digits
from experiments import figure4_accuracy, report, results, table1_costs, table5_inference

COMMITTED = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/"))


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    module.main()


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_costs_by_stage(tmp_path, monkeypatch):
    command = [f"--out={tmp_path}", "--models=acmix_resnet14_stem1", "--image-size=32", "--batch=1"]
    monkeypatch.setattr(table1_costs, "STAGES", table1_costs.STAGES[:1])
    run(monkeypatch, table1_costs, *command)
    first, attention, acmix = rows(tmp_path / "operators.csv")[:3]
    assert (first["operator"], first["macs_stage1"], first["params_stage2_attention"]) == (
        "convolution",
        "2359296",
        "0",
    )
    assert float(first["ms_stage1"]) > 0 == float(first["ms_stage2_attention"])
    assert attention["params_stage2_convolution"] == "0" != acmix["params_stage2_convolution"]
    assert all(float(acmix[f"ms_{part}"]) > 0 for part in ("stage2_attention", "stage2_convolution"))
    (model,) = rows(tmp_path / "models.csv")
    assert sum(float(model[f"ms_{part}"]) for part in table1_costs.PARTS) > 0
    assert (tmp_path / "costs.png").stat().st_size > 20_000
    before = (tmp_path / "operators.csv").read_text()
    run(monkeypatch, table1_costs, *command)  # measures nothing again
    assert (tmp_path / "operators.csv").read_text() == before


def test_table_1_in_closed_form_counts_what_the_layers_have():
    for size, features in ((8, 64), (4, 128)):
        for name, cost in table1_costs.operator_costs(features, size**2).items():
            layer = table1_costs.operators(features)[name]
            assert sum(cost.params.values()) == sum(x.size for x in _leaves(layer, size, features))


def _leaves(layer, size, features):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, features), "float32"))
    return jax.tree.leaves(shapes)


def test_inference_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    command = [f"--out={tmp_path}", "--networks=resnet14_stem1", "--img-size=32", "--rounds=1"]
    run(monkeypatch, table5_inference, *command, "--batches=1")
    run(monkeypatch, table5_inference, *command, "--batches=1,2")
    found = rows(tmp_path / "inference.csv")
    assert [(row["model"], row["form"], row["batch"]) for row in found] == [
        (name, form, batch)
        for batch in "12"
        for name in ("resnet14_stem1", "acmix_resnet14_stem1")
        for form in ("as trained", "folded")
    ]
    assert all(float(row["samples_per_sec"]) > 0 for row in found)
    assert capsys.readouterr().out.count("batch   1") == 4
    assert (tmp_path / "inference.png").stat().st_size > 20_000


def test_half_a_row_of_a_killed_program_is_measured_again(tmp_path):
    columns = ["name", "ms"]
    results.Table(tmp_path / "a.csv", columns).add("one", 1.0)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("two,0.")
    again = results.Table(tmp_path / "a.csv", columns)
    assert again.having(name="one") == [{"name": "one", "ms": "1"}]
    assert not again.having(name="two")
    again.add("two", 2.5)
    assert (tmp_path / "a.csv").read_text() == "name,ms\none,1\ntwo,2.5\n"
    with pytest.raises(UserError, match="has other columns"):
        results.Table(tmp_path / "a.csv", ["name", "seconds"])


def make_run(folder, top1):
    folder.mkdir()
    config = digits.get_config().to_dict() | {"num_epochs": 0.01, "environment": {"training_images": 1437}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval_top1": top1}) + "\n")
    return folder


def test_accuracies_say_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(figure4_accuracy, "ACCURACY", {"Swin": {"swin_tiny": 81.3, "acmix_swin_tiny": 81.9}})
    runs = [make_run(tmp_path / f"run{i}", top1) for i, top1 in enumerate((97.0, 98.0))]
    run(monkeypatch, figure4_accuracy, f"--out={tmp_path / 'out'}", *runs)
    found = {row["model"]: row for row in rows(tmp_path / "out" / "figure4.csv")}
    acmix = found["acmix_swin_tiny"]
    assert (acmix["top1"], acmix["top1_origin"], acmix["gmacs"], acmix["gmacs_origin"]) == (
        "81.9", "its paper", "4.645", "derived",
    )  # fmt: skip
    assert found["CvT"]["gmacs_origin"] == "paper's figure"
    assert (found["acmix_resnet14_stem1"]["top1_origin"], found["acmix_resnet14_stem1"]["panel"]) == (
        "measured here", "digits",
    )  # fmt: skip
    assert (tmp_path / "out" / "figure4.png").stat().st_size > 20_000


def test_a_run_without_accuracy_is_refused(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", 90.0)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit, match="is no finished run"):
        run(monkeypatch, figure4_accuracy, f"--out={tmp_path / 'out'}", folder)


class Page(html.parser.HTMLParser):
    """What a browser would load, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.open, self.links, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loaded += [value for name, value in attributes.items() if name in ("src", "srcset", "data")]
        self.links += [attributes["href"]] if "href" in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_everything_in_itself(tmp_path, monkeypatch):
    folder = tmp_path / "table1"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", ["table9_more.py", "--out=a folder"])
    results.write(folder, "A < title.\n\nMore text.", "measured here", seeds=[0, 1])
    (folder / "one.csv").write_text('name,ms\n"a <b>",3\n')
    (folder / "one.png").write_bytes(b"\x89PNG")
    (tmp_path / "other" / "table1").mkdir(parents=True)
    results.write(tmp_path / "other" / "table1", "Named alike.", "paper")
    (tmp_path / "other" / "table1" / "empty.csv").touch()
    run(monkeypatch, report, f"--out={tmp_path / 'report.html'}", folder, tmp_path / "other" / "table1")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert page.loaded == ["data:image/png;base64,iVBORw=="]
    assert page.links == ["#section1", "#section2"] == [f"#{name}" for name in page.ids]
    assert not re.search(r"https?:|url\(|@import|fetch\(", text)
    assert "python -m experiments.table9_more &#x27;--out=a folder&#x27;" in text
    for part in ("A &lt; title.", "<td>a &lt;b&gt;</td><td>3</td>", "measured here", "seeds: 0, 1"):
        assert part in text


def test_a_folder_without_results_is_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"holds no results: .*record\.json"):
        run(monkeypatch, report, f"--out={tmp_path / 'report.html'}", tmp_path)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_results_say_what_produced_them(folder):
    found = json.loads((folder / "record.json").read_text())
    assert all(f"--out=docs/results/{folder.name}" in command for command in found["commands"])
    assert all(re.fullmatch("[0-9a-f]{40}", where["commit"]) for where in found["environments"])  # none "-dirty"
    assert all(where["machine"] for where in found["environments"])
    assert list(folder.glob("*.csv"))
    assert list(folder.glob("*.png"))


def test_the_committed_results_make_a_page(tmp_path, monkeypatch):
    run(monkeypatch, report, f"--out={tmp_path / 'report.html'}", *COMMITTED)
    page = Page((tmp_path / "report.html").read_text())
    assert not page.open
    assert len(page.ids) == len(COMMITTED)
