# SPDX-License-Identifier: GPL-2.0
"""Takes the C functions that rust/ext calls apart, for the kernel's rust/helpers and for the driver's own file."""

import re


def blocks(text):
    """What stands at the outermost level, with the comments before it: pieces between empty lines."""
    found, piece, depth = [], [], 0
    for line in text.splitlines():
        alone = re.match(r"#(ifdef|endif)", line)
        if depth == 0 and (alone or not line.strip()):
            if piece:
                found.append("\n".join(piece))
            piece = []
            if alone:
                found.append(line)
            continue
        depth += line.count("{") - line.count("}")
        piece.append(line)
    if piece:
        found.append("\n".join(piece))
    return found


def name(block):
    """The function, macro or structure that a block defines."""
    code = re.sub(r"/\*.*?\*/\s*", "", block, flags=re.S)
    match = re.search(r"(?:rvsock_helper_)?(\w+)\(", code.split("\n")[0] + code.split("\n{")[0])
    if define := re.match(r"#define (\w+)", code):
        return define[1]
    if struct := re.match(r"struct (\w+) \{", code):
        return struct[1]
    if code.startswith("#"):
        return None
    return match[1] if match else None


def align(signature):
    """Puts continued parameters below the first one, as checkpatch wants it; below what is returned where they are long."""
    text = re.sub(r"\s*\n\s*", " ", signature)
    if len(text.expandtabs(8)) <= 80:
        return text
    head, _, parameters = text.partition("(")
    parameters = re.split(r"(?<=,) (?![^(]*\)[^)]*\))", parameters)
    lines = []
    if len(head) + 1 + max(map(len, parameters)) > 100:
        returned, head = re.fullmatch(r"(.*[ *])(\w+)", head).groups()
        lines.append(returned.rstrip())
    column = len(head) + 1
    line = head + "("
    for parameter in parameters:
        if len(line.expandtabs(8)) + len(parameter) + 1 > 100 and not line.endswith("("):
            lines.append(line.rstrip())
            line = "\t" * (column // 8) + " " * (column % 8)
        elif not line.endswith("(") and line.strip():
            line += " "
        line += parameter
        if parameter.endswith(",") and len(line.expandtabs(8)) > 78:
            lines.append(line)
            line = "\t" * (column // 8) + " " * (column % 8)
    return "\n".join(lines + [line]).rstrip()


def helper(block):
    """A function as rust/helpers has it."""
    comment = re.match(r"(?:/\*.*?\*/\n)?", block, re.S)[0]
    code = block[len(comment):]
    if re.match(r"struct \w+ \{", code):
        return block
    if "rvsock_helper_" not in code:
        # Helpers may be inlined into Rust code, and what they call with them.
        return re.sub(r"^static (?!inline)", "static inline ", block, flags=re.M)
    signature, brace, body = code.partition("\n{")
    signature = align("__rust_helper " + signature.replace("rvsock_helper_", "rust_helper_"))
    return comment + signature + brace + body


def pick(text, names):
    """The blocks of these names, in their order in the text; all must be there."""
    found = [(name(b), b) for b in blocks(text)]
    have = [n for n, _ in found]
    for wanted in names:
        assert wanted in have, f"no C function {wanted}"
    return [b for n, b in found if n in names]


def without(text, names):
    """The text without the functions of these names, and without what is empty then."""
    kept = [b for b in blocks(text) if name(b) not in names]
    text = "\n\n".join(kept) + "\n"
    return re.sub(r"#ifdef CONFIG_KUNIT\s+#endif\n*", "", text)


def prototypes_without(text, names):
    text = re.sub(r"^(?!#|/\*| \*)[^\n;#]*?rvsock_helper_(\w+)\([^;]*;\n", lambda m: "" if m[1] in names else m[0], text,
                  flags=re.M)
    text = re.sub(r"#ifdef CONFIG_KUNIT\n#endif\n", "", text)
    return re.sub(r"\n{3,}", "\n\n", text)
