"""Formulas as MathML, which browsers draw themselves: no script, and nothing to fetch when a page is read."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger
from sphinx.util.math import get_node_equation_number

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

LOG = getLogger(__name__)


def to_mathml(node: nodes.math | nodes.math_block) -> str:
    formula = node.astext().replace(r"\texttt", r"\mathtt")
    try:
        return tex2mathml(formula, as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        LOG.warning("no MathML for the formula %s: %s", formula, error, location=node)
        return f"<code>{html.escape(formula)}</code>"


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    # MyST wraps some blocks in environments of their own; the others may hold several aligned lines.
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})</span>')
    translator.body.append(to_mathml(node))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
