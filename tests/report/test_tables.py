import io
import re

import pytest

from jtl.report import Table, markdown, show, spread
from jtl.report.tables import plain

TABLE = Table("title", ("way", "accuracy"), [("a|b", "1.0"), ("longer name", "22.5 ± 0.1")])


def test_spread_is_the_sample_deviation():
    # 2, 4, 6: mean 4, squared deviations 4 + 0 + 4 over n - 1 = 2.
    assert spread([2.0, 4.0, 6.0]) == (4.0, 2.0)
    assert spread([3.0]) == (3.0, 0.0)
    assert spread([0.5, 0.7]).percent() == "60.0 ± 14.1"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_spread_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="give at least one, and finite numbers only"):
        spread(values)


def test_markdown_has_a_cell_for_each_and_escapes_bars():
    lines = markdown(TABLE).splitlines()
    assert lines[0] == "**title**"
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    assert cells[0] == ["way", "accuracy"]
    assert all(set(cell) == {"-"} for cell in cells[1])
    assert cells[2:] == [[r"a\|b", "1.0"], ["longer name", "22.5 ± 0.1"]]
    assert len({len(line) for line in lines[2:]}) == 1, "aligned"


def test_plain_columns_start_below_each_other():
    _, header, _, first, second = plain(TABLE).splitlines()
    assert header.index("accuracy") == first.index("1.0") == second.index("22.5")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_show_draws_on_a_terminal_and_is_plain_elsewhere():
    pipe, terminal = io.StringIO(), Terminal()
    show(TABLE, pipe)
    show(TABLE, terminal)
    assert pipe.getvalue() == plain(TABLE) + "\n"
    assert "┃" in terminal.getvalue()
    assert "longer name" in terminal.getvalue()


def test_names_in_brackets_are_no_styles():
    terminal = Terminal()
    show(Table("[red]", ("[bold]", "b"), [("[PAD]", ":cat:"), ("[/b]", "[unk]")]), terminal)
    for name in ("[red]", "[bold]", "[PAD]", ":cat:", "[/b]", "[unk]"):
        assert name in terminal.getvalue()


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 1 cells"):
        plain(TABLE._replace(rows=[("one",)]))


def test_a_cell_of_several_lines_is_one_line():
    table = Table("t", ("a", "b\nc"), [("x\ny", "1|2")])
    for lines in (markdown(table).splitlines()[2:], plain(table).splitlines()[1:]):
        assert len(lines) == 3
        assert "b c" in lines[0]
        assert "x y" in lines[-1]
