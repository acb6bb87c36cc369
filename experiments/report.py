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
img {{ max-width: 100%; height: auto; }}
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
    const order = head.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.children) other.ariaSort = "none";
    head.ariaSort = order;
    const body = head.closest("table").tBodies[0];
    const value = row => row.cells[head.cellIndex].textContent;
    const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)));
    body.append(...(order === "ascending" ? rows : rows.reverse()));
  }};
}}
</script>
</body>
</html>
"""


def section(folder: Path) -> tuple[str, str]:
    """Title and HTML of an experiment.

    Raises:
      UserError: there is no record in the folder, or it cannot be read.
    """
    try:
        record = json.loads((folder / "record.json").read_text())
        facts = {key: html.escape(record[key]) for key in ("title", "text", "origin", "command")}
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{folder} holds no results: {folder / 'record.json'} cannot be read ({error})") from error
    parts = [f'<section id="{html.escape(folder.name)}">\n<h2>{facts["title"]}</h2>']
    for picture in sorted(folder.glob("*.png")):
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{facts["title"]}: {picture.stem}"></figure>'
        )
    parts.append(f"<pre>{facts['command']}</pre>\n<p class='origin'>Origin of the numbers: {facts['origin']}.")
    parts += [f"{html.escape(key)}: {html.escape(_words(record[key]))}." for key in record if key not in facts]
    parts.append("</p>")
    parts += [_table(path) for path in sorted(folder.glob("*.csv"))]
    parts.append(f"<details><summary>How it is made</summary><p class='text'>{facts['text']}</p></details>\n</section>")
    return record["title"], "\n".join(parts)


def _words(value):
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(path):
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    names = "".join(f'<th scope="col"><button>{html.escape(name)}</button></th>' for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<details{' open' * (len(rows) <= 12)}><summary>{html.escape(path.name)}</summary><div class='wide'><table>\n"
        f"<thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></details>"
    )


def main() -> None:
    """Reads the folders and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of experiments")
    parser.add_argument("--out", required=True, type=Path, help="file to write, such as report.html")
    flags = parser.parse_args()
    try:
        found = {folder.name: section(folder) for folder in flags.folders}
        links = [
            f'<li><a href="#{html.escape(name)}">{html.escape(title)}</a></li>' for name, (title, _) in found.items()
        ]
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        page = PAGE.format(contents="\n".join(links), sections="\n".join(text for _, text in found.values()))
        flags.out.write_text(page)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(flags.out)


if __name__ == "__main__":
    main()
