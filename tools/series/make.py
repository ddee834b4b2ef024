#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Commits the series to a git tree of the kernel's source: make.py CHECKOUT TREE NAME EMAIL

The tree is reset to its commit `base` first. See plan.py for what goes where, and Documentation/series.rst.
"""

import re
import subprocess
import sys
from pathlib import Path

import c
import comments
import plan
from rust import Rewriter

HERE = Path(__file__).resolve().parent


def run(*command, **more):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **more).stdout


class Series:
    def __init__(self, checkout, tree, author):
        self.checkout, self.root = Path(checkout), Path(tree)
        self.name, self.rust, self.written, self.taken = None, [], [], set()
        moved = [n for names in plan.HELPERS.values() for n in names]
        self.moved = {n: plan.RENAMED.get(n, n) for n in moved} | {n: n for n in plan.BOUND}
        self.author = author

    def git(self, *command, **more):
        name, email = self.author
        return run("git", "-C", str(self.root), "-c", f"user.name={name}", "-c", f"user.email={email}", *command, **more)

    # Reading and writing.

    def sources(self):
        """The Rust files of the driver, but for what the build makes and asks the compiler by."""
        files = (str(file.relative_to(self.checkout)) for file in (self.checkout / "rust").rglob("*.rs"))
        return {f for f in files if not re.match(r"rust/(tests|ext/probes)/|.*_generated\.rs$", f)}

    def source(self, path):
        return (self.checkout / path).read_text()

    def text(self, path):
        """A new file, as it is in the folder files."""
        return (HERE / "files" / path).read_text()

    def piece(self, path):
        """A piece of a file: its licence is for that folder alone."""
        return self.text(path).partition("\n")[2]

    def read(self, path):
        return (self.root / path).read_text()

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.written.append(path)
        if path.endswith(".rs"):
            self.rust.append(path)

    def replace(self, path, old, new):
        text = self.read(path)
        if text.count(old) != 1:
            sys.exit(f"series: {self.name}: {path} has {text.count(old)} times {old!r}, not once: mend plan.py")
        self.write(path, text.replace(old, new))

    def after(self, path, old, new):
        self.replace(path, old, old + new)

    def before(self, path, old, new):
        self.replace(path, old, new + old)

    # A patch, from its beginning to its commit.

    def patch(self, name):
        self.commit()
        self.name = name

    def commit(self):
        if self.name is None:
            return
        self.format()
        for path in dict.fromkeys(self.written):
            if re.match(r"rust/(kernel|helpers)/", path) and (found := re.search(r".*(?:rvsock|crate::ext).*", self.read(path))):
                sys.exit(f"series: {self.name}: {path} has what only the driver should have: {found[0].strip()}")
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--signoff", "--cleanup=strip", "--file", str(HERE / "messages" / f"{self.name}.txt"))
        self.rust, self.written = [], []

    def format(self):
        """From standard input, so that the modules which a file declares are left alone."""
        for path in dict.fromkeys(self.rust):
            text = subprocess.run(["rustfmt", "--edition", "2021", "--config-path", str(self.root / ".rustfmt.toml")],
                                  input=self.read(path), text=True, stdout=subprocess.PIPE, check=True).stdout
            (self.root / path).write_text(text)

    # What plan.py says of a patch.

    def rewrite(self, source, to, target, edits):
        self.taken.add(source)
        match = re.fullmatch(r"rust/ext/(.*?)(?:/mod)?\.rs", source)
        text = self.source(source)
        for old, new in edits:
            if text.count(old) != 1:
                sys.exit(f"series: {self.name}: {source} has {text.count(old)} times {old!r}, not once: mend plan.py")
            text = text.replace(old, new)
        module = match[1].replace("/", "::") if match else None
        text = Rewriter(to, module, self.moved).file(text)
        text = re.sub(r"Documentation/(admin-guide|architecture|datagrams|shared|conformance)\.rst",
                      "Documentation/networking/rvsock.rst", text)
        self.write(target, comments.fit(text))

    def kernel(self, source, target, edits=()):
        self.rewrite(plan.EXT + source, "kernel", "rust/kernel/" + target, edits)

    def driver(self, source, target, edits=()):
        self.rewrite(source, "driver", plan.DRIVER + target, edits)

    def tree(self, source, target):
        """What is in a folder, or has a path that begins so, and is in no patch yet."""
        folder = source.rpartition("/")[0]
        for file in sorted((self.checkout / folder).rglob("*.rs")):
            path = str(file.relative_to(self.checkout))
            if path.startswith(source) and path not in self.taken:
                self.rewrite(path, "driver", target + path[len(source):], ())

    def add(self, path):
        text = self.text(path)
        self.write(path, comments.fit(text) if path.endswith(".rs") else text)

    def item(self, source, function):
        """A function of a file of rust/ext, with its comment, for the kernel crate."""
        text = self.source(plan.EXT + source)
        match = re.search(rf"(?:^///.*\n)+^pub\(crate\) fn {function}\b.*?^}}\n", text, re.M | re.S)
        return match[0].replace("pub(crate)", "pub")

    def tail(self, source, start):
        """A file of rust/ext from a line on, for the kernel crate."""
        text = self.source(plan.EXT + source)
        return text[text.index(f"\n{start}") + 1:].replace("pub(crate)", "pub")

    def c_sources(self):
        files = ("helpers.c", "net/helpers.c", "net/device_helpers.c")
        return "\n".join(self.source(plan.EXT + name) for name in files)

    def named(self, text):
        for old, new in plan.RENAMED.items():
            text = re.sub(rf"\brvsock_helper_{old}\b", f"rvsock_helper_{new}", text)
        return text

    def helpers(self, path):
        code = "\n\n".join(c.helper(self.named(b)) for b in c.pick(self.c_sources(), plan.HELPERS[path])) + "\n"
        if path not in plan.NEW_HELPERS:
            self.write(path, self.read(path) + "\n" + code)
            return
        headers, condition = plan.NEW_HELPERS[path]
        kunit = [b for b in ("msg_over", "msg_over_nothing") if f"rust_helper_{b}(" in code]
        if kunit:
            at = code.index("/* For tests: the")
            code = code[:at] + "#ifdef CONFIG_KUNIT\n" + code[at:] + "#endif\n"
        if condition:
            code = f"#ifdef {condition}\n\n{code}\n#endif\n"
        includes = "".join(f"#include <{h}>\n" for h in headers)
        self.write(path, f"// SPDX-License-Identifier: GPL-2.0\n\n{includes}\n{code}")
        self.sorted_line("rust/helpers/helpers.c", f'#include "{path[len("rust/helpers/"):]}"\n', r'#include "[\w/.-]+"\n')

    def copy(self, source, target):
        """A C file that the driver keeps as it is."""
        self.write(target, self.source(source))

    def own_helpers(self, path):
        moved = [n for n in self.moved]
        code = c.without(self.source(plan.EXT + "net/helpers.c"), moved)
        header = c.prototypes_without(self.source(plan.EXT + "net/helpers.h"), moved)
        self.write(path + ".c", re.sub(r"#include <linux/random.h>\n", "", code))
        self.write(path + ".h", header.replace("RVSOCK_NET_HELPERS_H", "RVSOCK_HELPERS_H"))

    def sorted_line(self, path, line, like):
        """Puts a line among those that are like it, in their order; nothing if it is there."""
        lines = self.read(path).splitlines(keepends=True)
        if line in lines:
            return
        at = [i for i, have in enumerate(lines) if re.fullmatch(like, have)]
        later = [i for i in at if lines[i] > line and not re.search(r"hrtimer_types|acpi.h|gpu_buddy|\.\./", lines[i])]
        lines.insert(later[0] if later else at[-1] + 1, line)
        self.write(path, "".join(lines))

    def bind(self, *headers):
        for header in headers:
            self.sorted_line("rust/bindings/bindings_helper.h", f"#include <{header}>\n", r"#include <[a-z][\w/.-]+>\n")

    # MAINTAINERS.

    def maintainers(self, title, lists, files):
        name, email = self.author
        entry = "".join(f"{line}\n" for line in (
            [title, f"M:\t{name} <{email}>"] + [f"L:\t{address}" for address in lists] + ["S:\tMaintained"]
            + [f"F:\t{f}" for f in sorted(files)]))
        text = self.read("MAINTAINERS")
        head = text.index("Maintainers List\n")
        for match in re.finditer(r"^(\S[^\n]*)\n(?=[A-Z]:\t)", text[head:], re.M):
            if match[1].upper() > title and not re.match(r"[A-Z]:\t|\.", match[1]):
                at = head + match.start()
                self.write("MAINTAINERS", text[:at] + entry + "\n" + text[at:])
                return
        sys.exit("series: MAINTAINERS has no place for " + title)

    def covers(self, title, *files):
        """Adds files to an entry."""
        if not files:
            return
        text = self.read("MAINTAINERS")
        start = text.index(f"\n{title}\n") + 1
        end = text.index("\n\n", start)
        lines = text[start:end].split("\n")
        rest = [line for line in lines if not line.startswith("F:")]
        have = sorted([line for line in lines if line.startswith("F:")] + [f"F:\t{f}" for f in files])
        self.write("MAINTAINERS", text[:start] + "\n".join(rest + have) + text[end:])

    # Documentation.

    def document(self, target, parts):
        text = self.text(target)
        for source, sections in parts:
            whole = self.source(source)
            for title in sections:
                match = re.search(rf"^{re.escape(title)}\n=+\n.*?(?=^[^\n]+\n===+\n|\Z)", whole, re.M | re.S)
                if not match:
                    sys.exit(f"series: {source} has no section {title!r}: mend plan.py")
                text += "\n" + match[0].rstrip() + "\n"
        text = re.sub(r"\s*\((?:see )?(?:``)?Documentation/datagrams\.rst(?:``)?\)", "", text)
        text = text.replace("``rust/driver/mod.rs``", "``driver/mod.rs``").replace("``rust/ext/virtio/mod.rs``", "``rust/kernel/virtio.rs``")
        text = text.replace("``ext/virtio``", "``kernel::virtio``").replace(" is in :doc:`tracing`.", " is below.")
        self.write(target, text)


def main():
    checkout, tree, *author = sys.argv[1:]
    series = Series(checkout, tree, author)
    series.git("checkout", "--quiet", "--force", "-B", "series", "base")
    series.git("clean", "--quiet", "-fdx")
    plan.series(series)
    series.commit()
    if left := series.sources() - series.taken - set(plan.LEFT):
        sys.exit(f"series: in no patch: {', '.join(sorted(left))}: mend plan.py")
    print(series.git("log", "--oneline", "--reverse", "base..series"), end="")


if __name__ == "__main__":
    main()
