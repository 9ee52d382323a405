"""Curves as SVG. Standard library only."""
import html
import math

COLOURS = ["#2563eb", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#0b7285", "#5f3dc4", "#e67700", "#495057", "#a61e4d"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 520, 70, 250, 48, 56


def ticks(low, high, count=6):
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, int(math.floor(high / step + 1e-9)) + 1)]


def draw(title, curves):
    """curves: {name: [(tokens, loss), ...]}. Tokens on a logarithmic axis on which 0 stands left of the first; losses
    above the upper end of the axis, four times the median, are cut off."""
    budgets = sorted({x for points in curves.values() for x, _ in points if x > 0})
    values = sorted(y for points in curves.values() for _, y in points)
    if not budgets:
        return "<svg xmlns='http://www.w3.org/2000/svg'/>\n"
    low, high = min(0.0, values[0]), min(values[-1], 4 * values[len(values) // 2])
    first, last = math.log10(budgets[0]) - 1, math.log10(budgets[-1])

    def place(x, y):
        along = (math.log10(x) if x > 0 else first) - first
        return (LEFT + (WIDTH - LEFT - RIGHT) * along / (last - first),
                TOP + (HEIGHT - TOP - BOTTOM) * (high - min(y, high)) / (high - low))

    out = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif' "
           f"font-size='12'>", f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
           f"<text x='{LEFT}' y='28' font-size='16'>{html.escape(title)}</text>"]
    for y in ticks(low, high):
        at = place(budgets[0], y)[1]
        out += [f"<line x1='{LEFT}' y1='{at:.1f}' x2='{WIDTH - RIGHT}' y2='{at:.1f}' stroke='#dee2e6'/>",
                f"<text x='{LEFT - 8}' y='{at + 4:.1f}' text-anchor='end'>{y:.3g}</text>"]
    for x in [0] + budgets:
        at = place(x, 0)[0]
        out.append(f"<text x='{at:.1f}' y='{HEIGHT - BOTTOM + 20}' text-anchor='middle'>{x:,}</text>")
    out.append(f"<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 12}' text-anchor='middle'>tokens trained</text>")
    for i, (name, points) in enumerate(sorted(curves.items(), key=lambda item: item[1][-1][1])):
        colour, dash = COLOURS[i % len(COLOURS)], ["", "6 3", "2 3"][i // len(COLOURS) % 3]
        path = " ".join(f"{'L' if j else 'M'}{place(x, y)[0]:.1f},{place(x, y)[1]:.1f}" for j, (x, y) in enumerate(points))
        out.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2' stroke-dasharray='{dash}'/>")
        at = TOP + 10 + 17 * i
        out += [f"<line x1='{WIDTH - RIGHT + 14}' y1='{at}' x2='{WIDTH - RIGHT + 38}' y2='{at}' stroke='{colour}' "
                f"stroke-width='2' stroke-dasharray='{dash}'/>",
                f"<text x='{WIDTH - RIGHT + 44}' y='{at + 4}'>{html.escape(name)} {points[-1][1]:.4f}</text>"]
    return "\n".join(out + ["</svg>", ""])
