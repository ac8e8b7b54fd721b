"""How the HTML page looks: its frame, colours for light and dark, and the legend's words."""

from string import Template

KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
    "R": "recompute",
    "UNSHARD": "weights gathered",
    "REDUCE_GRAD": "gradients reduced",
}

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --back: #fff; --text: #1c2330; --faint: #667085; --line: #d8dde6;
  --F: #8fb8ee; --B: #83cfa0; --I: #86d3cf; --W: #f0bd78; --R: #d3dc7f;
  --UNSHARD: #5b8def; --REDUCE_GRAD: #d9822b; --wait: #e5484d; --memory: #a79be0; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181f; --text: #e4e8ef; --faint: #98a2b3; --line: #323a47;
    --F: #2f67ad; --B: #2c7f4f; --I: #24807b; --W: #9b6a1f; --R: #77802a;
    --UNSHARD: #4a7be0; --REDUCE_GRAD: #c9741f; --wait: #e5484d; --memory: #6658b5; } }
body { margin: 24px; background: var(--back); color: var(--text);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 12px; }
h2 { font-size: 15px; margin: 20px 0 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--faint); }
th, td { padding: 3px 20px 3px 0; text-align: left; }
div { overflow-x: auto; }
svg { width: 100%; min-width: 860px; display: block; font: 11px system-ui, sans-serif; }
svg rect { stroke: var(--back); }
.F { fill: var(--F); background: var(--F); }
.B { fill: var(--B); background: var(--B); }
.I { fill: var(--I); background: var(--I); }
.W { fill: var(--W); background: var(--W); }
.R { fill: var(--R); background: var(--R); }
.UNSHARD { fill: var(--UNSHARD); background: var(--UNSHARD); }
.REDUCE_GRAD { fill: var(--REDUCE_GRAD); background: var(--REDUCE_GRAD); }
.odd { fill-opacity: .72; }
.wait { fill: var(--wait); background: var(--wait); opacity: .45; }
.memory { fill: var(--memory); background: var(--memory); opacity: .55; }
.pair { fill: none; stroke: var(--text); stroke-width: 1; border: 1px solid; }
.op { fill: var(--text); text-anchor: middle; pointer-events: none; }
.label, .note, .time { fill: var(--faint); }
.time { text-anchor: middle; }
.axis { stroke: var(--line); stroke-width: 1; }
.legend { color: var(--faint); display: flex; flex-wrap: wrap; gap: 4px 18px; }
.legend i { display: inline-block; width: 14px; height: 11px; margin-right: 6px; }
</style>
<h1>$title</h1>
$body
<p class="legend">Times in seconds, memory in bytes; predictions from unit costs in those units.
Idle counts to the end of the timeline's last op. Two shades tell odd from even micro-batches.</p>
</html>
""")


def page(title: str, body: str) -> str:
    """The whole page; `title` and `body` are HTML already."""
    return _PAGE.substitute(title=title, body=body)
