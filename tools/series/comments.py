# SPDX-License-Identifier: GPL-2.0
"""Comments of Rust files within the width that the kernel's tree has."""

import re
import textwrap

WIDTH = 100
COMMENT = re.compile(r"( *//[/!]?)( .*|)")
# What begins a paragraph of its own: an item of a list, a heading, a row of a table.
ITEM = re.compile(r" *([-*] |\d+\. )")
ALONE = re.compile(r" *(#|\||\[[^]]*\]:)")


def fit(text):
    """Fills those paragraphs of comments again that have a line which is too long."""
    out, paragraph, marker, fenced = [], [], None, False

    def end():
        out.extend(refill(marker, paragraph))
        paragraph.clear()

    for line in text.split("\n"):
        match = COMMENT.fullmatch(line)
        if not match or match[1] != marker:
            end()
            fenced = False
        if not match:
            marker = None
            out.append(line)
            continue
        marker, content = match[1], match[2]
        fence = content.lstrip().startswith("```")
        if fenced or fence or not content.strip() or ALONE.match(content):
            end()
            out.append(line)
            fenced ^= fence
            continue
        if ITEM.match(content):
            end()
        paragraph.append(content)
    end()
    return "\n".join(out)


def refill(marker, lines):
    if all(len(marker + line) <= WIDTH for line in lines):
        return [marker + line for line in lines]
    first = re.match(" *", lines[0])[0]
    item = ITEM.match(lines[0])
    rest = re.match(" *", lines[1])[0] if len(lines) > 1 else " " * len(item[0]) if item else first
    return textwrap.wrap(" ".join(line.strip() for line in lines), WIDTH, initial_indent=marker + first,
                         subsequent_indent=marker + rest, break_long_words=False, break_on_hyphens=False)
