"""All results on one page.

python -m experiments.report --out=report.html DIR [DIR ...]

Each DIR is the folder of an experiment, with its record.json, tables (*.csv) and pictures (*.png). The page holds
everything in itself and needs no network; a click on the head of a column sorts its table. Under each experiment stand
the command that makes it, where its numbers come from, and what they were measured on.
"""

import argparse
import base64
import csv
import html
import json
import sys
from pathlib import Path

from acmix_jax.errors import UserError

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>acmix_jax: results</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; color: #222; }}
figure {{ margin: 1rem 0; overflow-x: auto; }}
img {{ max-width: 100%; height: auto; }}
@media (max-width: 40rem) {{ img {{ max-width: none; width: 40rem; }} }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }}
th button {{ all: unset; cursor: pointer; font-weight: bold; }}
th button:focus-visible {{ outline: 2px solid; }}
th[aria-sort=ascending] button::after {{ content: " ▲"; }}
th[aria-sort=descending] button::after {{ content: " ▼"; }}
pre {{ overflow-x: auto; background: #f4f4f4; padding: .5rem; }}
.text {{ white-space: pre-line; }}
.origin {{ font-size: .85rem; color: #555; overflow-wrap: anywhere; }}
section {{ border-top: 2px solid #222; margin-top: 2rem; }}
</style>
</head>
<body>
<h1>acmix_jax: results</h1>
<ul>
{contents}
</ul>
{sections}
<script>
for (const head of document.querySelectorAll("th")) {{
  head.querySelector("button").onclick = () => {{
    const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    const body = head.closest("table").tBodies[0];
    const value = row => row.cells[head.cellIndex].textContent;
    const isEmpty = row => ["", "nan"].includes(value(row));
    const full = [...body.rows].filter(row => !isEmpty(row));
    const empty = [...body.rows].filter(isEmpty);
    const isNumber = full.every(row => !isNaN(value(row)));
    full.sort((a, b) => isNumber ? value(a) - value(b) : value(a).localeCompare(value(b)));
    body.append(...(order === "ascending" ? full : full.reverse()), ...empty);
  }};
}}
</script>
</body>
</html>
"""


def section(folder: Path, name: str) -> tuple[str, str]:
    """Title and HTML of an experiment, which gets `name` as its id.

    Raises:
      UserError: there is no record in the folder, or it cannot be read.
    """
    try:
        record = json.loads((folder / "record.json").read_text())
        title, text, origin = (html.escape(record.pop(key)) for key in ("title", "text", "origin"))
        commands = [*record.pop("trained_by", []), *record.pop("commands")]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{folder} holds no results: {folder / 'record.json'} cannot be read ({error})") from error
    parts = [f'<section id="{name}">\n<h2>{title}</h2>']
    for picture in sorted(folder.glob("*.png")):
        data = base64.b64encode(picture.read_bytes()).decode()
        shown = html.escape(f"{picture.stem}: ") + title
        parts.append(f'<figure><img src="data:image/png;base64,{data}" alt="{shown}"></figure>')
    parts.append(f"<pre>{html.escape(chr(10).join(filter(None, commands)))}</pre>")
    facts = [f"Origin of the numbers: {origin}", *(html.escape(f"{key}: {_words(x)}") for key, x in record.items())]
    parts.append(f'<p class="origin">{"<br>".join(facts)}</p>')
    parts += [_table(path) for path in sorted(folder.glob("*.csv"))]
    parts.append(f'<details><summary>How it is made</summary><p class="text">{text}</p></details>\n</section>')
    return title, "\n".join(parts)


def _words(value):
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


def _table(path):
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    name, is_short = html.escape(path.name), len(rows) <= 12
    heads = "".join(f'<th scope="col"><button>{html.escape(cell)}</button></th>' for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"""<details{" open" * is_short}><summary>{name}</summary>
<div class="wide" tabindex="0" role="region" aria-label="{name}"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{body}
</tbody></table></div></details>"""


def main() -> None:
    """Reads the folders and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of experiments")
    parser.add_argument("--out", required=True, type=Path, help="file to write, such as report.html")
    flags = parser.parse_args()
    try:
        found = [section(folder, f"section{i}") for i, folder in enumerate(flags.folders, 1)]
        links = [f'<li><a href="#section{i}">{title}</a></li>' for i, (title, _) in enumerate(found, 1)]
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(PAGE.format(contents="\n".join(links), sections="\n".join(text for _, text in found)))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(flags.out)


if __name__ == "__main__":
    main()
