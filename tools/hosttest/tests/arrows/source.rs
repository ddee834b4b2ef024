// SPDX-License-Identifier: GPL-2.0

//! Reads the modules of a crate, and every path that is written in them.
//!
//! A path counts wherever it stands: in `use` trees, expressions, types, attributes and the arguments or
//! bodies of macros; in comments and in `pub(in ...)` it does not. What a module uses without naming it, as the
//! methods of a value, is not seen.

use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    io,
    path::{
        Path,
        PathBuf, //
    },
};

use proc_macro2::{
    Delimiter,
    Span,
    TokenStream,
    TokenTree, //
};
use syn::{
    visit::{
        self,
        Visit, //
    },
    Item,
    UseTree, //
};

/// The names from the crate's root to a module; none for the root itself.
pub(crate) type ModulePath = Vec<String>;

/// A path as it is written, and the line that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) names: Vec<String>,
    pub(crate) line: usize,
}

/// A module: a file, or a part of one.
#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    /// What the module itself defines.
    items: BTreeSet<String>,
    /// What its `use` declarations bring in, under which name.
    imports: BTreeMap<String, Vec<String>>,
    /// `use names::*`
    globs: Vec<Vec<String>>,
    written: Vec<Written>,
}

/// What the kernel's `module!` puts into the crate's root, for macros that describe the module wherever they stand.
const DESCRIBED: &str = "LocalModule";

/// All modules of a crate.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

/// Gives a file's text.
pub(crate) type Read<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

impl Crate {
    /// Reads the crate that begins with the file `root`.
    pub(crate) fn read(root: &Path, read: Read<'_>) -> Result<Self, String> {
        let mut all = Self::default();
        let place = Place {
            module: Vec::new(),
            file: root.to_owned(),
            dir: root.parent().unwrap_or(Path::new("")).to_owned(),
        };
        all.read_file(&place, read)?;
        Ok(all)
    }

    /// Each module, its file, and what is written in it.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&ModulePath, &Path, &[Written])> {
        self.modules
            .iter()
            .map(|(path, module)| (path, module.file.as_path(), module.written.as_slice()))
    }

    /// The module that defines what `names`, written in the module `from`, leads to; none if it is not of this crate.
    ///
    /// What a module merely passes on by `use` counts as of where it is defined.
    pub(crate) fn resolve(&self, from: &[String], names: &[String]) -> Option<ModulePath> {
        self.follow(from, names, 0)
    }

    fn follow(&self, from: &[String], names: &[String], depth: usize) -> Option<ModulePath> {
        const DEEPEST: usize = 16;
        let here = self.modules.get(from)?;
        let mut at = from.to_vec();
        let mut rest = names;
        match names.first()?.as_str() {
            "crate" if names.get(1).is_some_and(|name| name == DESCRIBED) => return None,
            "crate" => {
                at.clear();
                rest = &names[1..];
            }
            "self" => rest = &names[1..],
            "super" => {
                while let Some((name, others)) = rest.split_first() {
                    if name != "super" {
                        break;
                    }
                    at.pop();
                    rest = others;
                }
            }
            first if names.len() > 1 && here.children.contains(first) => {}
            // Another crate's, or a name that a `use` has brought in, which is counted there.
            _ => return None,
        }
        while let Some((name, others)) = rest.split_first() {
            let module = self.modules.get(&at)?;
            if module.children.contains(name) {
                at.push(name.clone());
                rest = others;
                continue;
            }
            if module.items.contains(name) || depth >= DEEPEST {
                break;
            }
            if let Some(import) = module.imports.get(name) {
                let names: Vec<_> = import.iter().chain(others).cloned().collect();
                return Some(self.follow(&at, &names, depth + 1).unwrap_or(at));
            }
            let found = module.globs.iter().find_map(|glob| {
                let target = self.follow(&at, glob, depth + 1)?;
                let there = self.modules.get(&target)?;
                let has = there.items.contains(name)
                    || there.children.contains(name)
                    || there.imports.contains_key(name);
                let names: Vec<_> = ["self".to_owned()].iter().chain(rest).cloned().collect();
                if has && target != at {
                    self.follow(&target, &names, depth + 1)
                } else {
                    None
                }
            });
            return Some(found.unwrap_or(at));
        }
        Some(at)
    }

    fn read_file(&mut self, place: &Place, read: Read<'_>) -> Result<(), String> {
        let name = place.file.display();
        let text = read(&place.file).map_err(|e| format!("{name}: {e}"))?;
        let file =
            syn::parse_file(&text).map_err(|e| format!("{name}:{}: {e}", e.span().start().line))?;
        self.take_items(place, &file.items, read)
    }

    fn take_items(&mut self, place: &Place, items: &[Item], read: Read<'_>) -> Result<(), String> {
        let mut module = Module {
            file: place.file.clone(),
            ..Module::default()
        };
        for item in items {
            module.define(item);
        }
        let mut finder = Finder::default();
        for item in items {
            match item {
                Item::Mod(child) => {
                    module.children.insert(child.ident.to_string());
                }
                _ => finder.visit_item(item),
            }
        }
        module.written = finder.written;
        self.modules.insert(place.module.clone(), module);

        for item in items {
            let Item::Mod(child) = item else { continue };
            let name = child.ident.to_string();
            let mut inner = place.child(&name);
            match &child.content {
                Some((_, items)) => self.take_items(&inner, items, read)?,
                None => {
                    inner.find_file(&name, place, path_attribute(child), read);
                    self.read_file(&inner, read)?;
                }
            }
        }
        Ok(())
    }
}

/// Where a module stands.
struct Place {
    module: ModulePath,
    file: PathBuf,
    /// Where the files of its own modules are.
    dir: PathBuf,
}

impl Place {
    /// A module within this one, in the same file.
    fn child(&self, name: &str) -> Self {
        let mut module = self.module.clone();
        module.push(name.to_owned());
        Self {
            module,
            file: self.file.clone(),
            dir: self.dir.join(name),
        }
    }

    /// The module has a file of its own: `name.rs`, `name/mod.rs`, or what `#[path]` says.
    fn find_file(&mut self, name: &str, parent: &Self, given: Option<String>, read: Read<'_>) {
        if let Some(given) = given {
            self.file = parent.file.parent().unwrap_or(Path::new("")).join(given);
            self.dir = self.file.parent().unwrap_or(Path::new("")).to_owned();
            return;
        }
        self.file = parent.dir.join(format!("{name}.rs"));
        let folder = self.dir.join("mod.rs");
        if read(&folder).is_ok() {
            self.file = folder;
        }
    }
}

fn path_attribute(module: &syn::ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|attribute| {
        let pair = attribute.meta.require_name_value().ok()?;
        let syn::Expr::Lit(literal) = &pair.value else {
            return None;
        };
        match &literal.lit {
            syn::Lit::Str(text) if pair.path.is_ident("path") => Some(text.value()),
            _ => None,
        }
    })
}

impl Module {
    /// Notes the names that `item` puts into the module.
    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(i) => &i.ident,
            Item::Enum(i) => &i.ident,
            Item::Fn(i) => &i.sig.ident,
            Item::Static(i) => &i.ident,
            Item::Struct(i) => &i.ident,
            Item::Trait(i) => &i.ident,
            Item::Type(i) => &i.ident,
            Item::Union(i) => &i.ident,
            Item::Macro(i) => match &i.ident {
                Some(ident) => ident,
                None => return,
            },
            Item::Use(i) => {
                for leaf in leaves(&i.tree) {
                    match leaf.name {
                        Some(name) => {
                            self.imports.insert(name, leaf.names);
                        }
                        None => self.globs.push(leaf.names),
                    }
                }
                return;
            }
            _ => return,
        };
        self.items.insert(name.to_string());
    }
}

/// One name that a `use` declaration brings in; all of them if it has no `name`.
struct Leaf {
    names: Vec<String>,
    name: Option<String>,
    line: usize,
}

fn leaves(tree: &UseTree) -> Vec<Leaf> {
    fn walk(tree: &UseTree, before: &[String], all: &mut Vec<Leaf>) {
        let with = |ident: &syn::Ident| {
            let mut names = before.to_vec();
            // `use a::b::{self}` is `use a::b`.
            if ident != "self" || before.is_empty() {
                names.push(ident.to_string());
            }
            names
        };
        let line = |span: Span| span.start().line;
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(&path.ident), all),
            UseTree::Group(group) => group.items.iter().for_each(|t| walk(t, before, all)),
            UseTree::Name(name) => {
                let names = with(&name.ident);
                all.push(Leaf {
                    name: names.last().cloned(),
                    names,
                    line: line(name.ident.span()),
                });
            }
            UseTree::Rename(rename) => all.push(Leaf {
                names: with(&rename.ident),
                name: Some(rename.rename.to_string()),
                line: line(rename.ident.span()),
            }),
            UseTree::Glob(glob) => all.push(Leaf {
                names: before.to_vec(),
                name: None,
                line: line(glob.star_token.spans[0]),
            }),
        }
    }
    let mut all = Vec::new();
    walk(tree, &[], &mut all);
    all
}

/// Collects the paths that are written in an item.
#[derive(Default)]
struct Finder {
    written: Vec<Written>,
}

impl Finder {
    fn add(&mut self, names: Vec<String>, span: Span) {
        let line = span.start().line;
        self.written.push(Written { names, line });
    }

    /// Paths in what is not parsed: `a::b`, and `a::{b, c::d}`.
    fn tokens(&mut self, tokens: TokenStream) {
        self.paths(tokens, &[]);
    }

    /// `before` is what stands before the `{` that the tokens stand in.
    fn paths(&mut self, tokens: TokenStream, before: &[String]) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        // `pub(in a::b)` says who may use, and uses nothing.
        if matches!(tokens.first(), Some(TokenTree::Ident(i)) if i == "in") {
            return;
        }
        let colons = |at: usize| {
            [at, at + 1]
                .iter()
                .all(|i| matches!(tokens.get(*i), Some(TokenTree::Punct(p)) if p.as_char() == ':'))
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Group(group) => self.paths(group.stream(), &[]),
                // `a::{b as c}`: a new name, not a path.
                TokenTree::Ident(ident) if ident == "as" && !before.is_empty() => at += 1,
                TokenTree::Ident(ident) => {
                    let mut names = before.to_vec();
                    names.push(ident.to_string());
                    while colons(at) {
                        match tokens.get(at + 2) {
                            Some(TokenTree::Ident(next)) => {
                                names.push(next.to_string());
                                at += 3;
                            }
                            Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace => {
                                // What stands in there is what is used.
                                self.paths(g.stream(), &names);
                                names.clear();
                                at += 3;
                            }
                            _ => break,
                        }
                    }
                    if names.len() > 1 {
                        self.add(names, ident.span());
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for leaf in leaves(&item.tree) {
            let Leaf { names, line, .. } = leaf;
            self.written.push(Written { names, line });
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            let names = path.segments.iter().map(|s| s.ident.to_string());
            self.add(names.collect(), first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        self.tokens(invoked.tokens.clone());
        visit::visit_macro(self, invoked);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}
