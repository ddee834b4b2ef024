// SPDX-License-Identifier: GPL-2.0

//! Module parameters that sysfs shows.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)
//!
//! The parameters of [`kernel::prelude::module!`] are integers that cannot be read or written once
//! the module is loaded. These can, under `/sys/module/MODULE/parameters/`. A value says nothing of other
//! memory, so that nothing is ordered with it.

use core::fmt::Write;
use kernel::{
    bindings,
    ffi::{
        c_char,
        c_int, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// Declares an unsigned module parameter: a `static` of type [`U32`].
///
/// ```ignore
/// module_param_u32!(tx_depth, 64, 1..=1024, 0o644, "packets queued for sending per connection");
///
/// let depth = tx_depth.get();
/// ```
///
/// The arguments are the name, the default, optionally the values that are accepted, the mode in
/// sysfs (0 to hide it), and the description that `modinfo` shows. Writing another value is refused
/// with `ERANGE`.
macro_rules! module_param_u32 {
    ($name:ident, $default:expr, $perm:literal, $description:literal) => {
        $crate::ext::module_param::module_param_u32!(
            $name,
            $default,
            0..=u32::MAX,
            $perm,
            $description
        );
    };
    ($name:ident, $default:expr, $range:expr, $perm:literal, $description:literal) => {
        #[allow(non_upper_case_globals)]
        pub(crate) static $name: $crate::ext::module_param::U32 =
            $crate::ext::module_param::U32::new($default, $range);
        $crate::ext::module_param::register!($name, "uint", $perm, $description);
    };
}
pub(crate) use module_param_u32;

/// Declares a yes-or-no module parameter: a `static` of type [`Bool`].
///
/// As [`module_param_u32!`], without a range: `module_param_bool!(NAME, DEFAULT, MODE, TEXT)`.
macro_rules! module_param_bool {
    ($name:ident, $default:expr, $perm:literal, $description:literal) => {
        #[allow(non_upper_case_globals)]
        pub(crate) static $name: $crate::ext::module_param::Bool =
            $crate::ext::module_param::Bool::new($default);
        $crate::ext::module_param::register!($name, "bool", $perm, $description);
    };
}
pub(crate) use module_param_bool;

/// Declares a module parameter that is one of a few words: a `static` of type [`Choice`].
///
/// ```ignore
/// module_param_choice!(profile, ["auto", "ratified", "draft"], 0, 0o444, "reading of features");
///
/// match profile.get() { 1 => ..., 2 => ..., _ => ... }
/// ```
///
/// The arguments are the name, the words, the index of the default, the mode, and the description.
/// Any other word is refused with `EINVAL`.
macro_rules! module_param_choice {
    (
        $name:ident,
        [$($word:literal),+ $(,)?],
        $default:expr,
        $perm:literal,
        $description:literal
    ) => {
        #[allow(non_upper_case_globals)]
        pub(crate) static $name: $crate::ext::module_param::Choice =
            $crate::ext::module_param::Choice::new(&[$($word),+], $default);
        $crate::ext::module_param::register!($name, "charp", $perm, $description);
    };
}
pub(crate) use module_param_choice;

/// Declares a read-only module parameter whose text a function makes when it is read.
///
/// ```ignore
/// module_param_text!(profile, show_profile, 0o444, "what was negotiated");
///
/// fn show_profile(out: &mut module_param::Page<'_>) -> Result {
///     writeln!(out, "draft")?;
///     Ok(())
/// }
/// ```
///
/// The arguments are the name, the function, the mode, and the description. The function runs in
/// process context and may sleep; while it does, other parameters of the module wait. It can also run
/// before and while the module's `init` and exit run.
macro_rules! module_param_text {
    ($name:ident, $show:path, $perm:literal, $description:literal) => {
        const _: () = assert!($perm & 0o222 == 0, "it can only be read");
        #[allow(non_upper_case_globals)]
        pub(crate) static $name: $crate::ext::module_param::Text =
            $crate::ext::module_param::Text::new($show);
        $crate::ext::module_param::register!($name, "text", $perm, $description);
    };
}
pub(crate) use module_param_text;

/// Tells the kernel, and `modinfo`, about a parameter.
#[doc(hidden)]
macro_rules! register {
    ($name:ident, $type:literal, $perm:literal, $description:literal) => {
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::ext::{
                module_info::joined,
                module_param::*, //
            };

            const NAME: &str = concat!(stringify!($name), "\0");
            const TYPE: &str = concat!("parmtype=", stringify!($name), ":", $type, "\0");
            const TEXT: &str = concat!("parm=", stringify!($name), ":", $description, "\0");
            const PREFIX: &[u8] = $crate::ext::module_info::prefix::<crate::LocalModule>();

            // C's `VERIFY_OCTAL_PERMISSIONS`: user may all that group may, and group all that others
            // may; nobody else writes.
            const { assert!($perm <= 0o777 && $perm & 0o133 == 0) };

            #[link_section = ".modinfo"]
            #[used(compiler)]
            static PARM_TYPE: [u8; PREFIX.len() + TYPE.len()] = joined(PREFIX, TYPE);

            #[link_section = ".modinfo"]
            #[used(compiler)]
            static PARM: [u8; PREFIX.len() + TEXT.len()] = joined(PREFIX, TEXT);

            static FULL_NAME: [u8; PREFIX.len() + NAME.len()] = joined(PREFIX, NAME);

            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: ::kernel::module_param::KernelParam =
                ::kernel::module_param::KernelParam::new(::kernel::bindings::kernel_param {
                    name: FULL_NAME.as_ptr().cast(),
                    mod_: $crate::ext::module_info::THIS_MODULE,
                    ops: ops_of(&$name),
                    perm: $perm,
                    level: -1,
                    flags: 0,
                    __bindgen_anon_1: ::kernel::bindings::kernel_param__bindgen_ty_1 {
                        arg: ::core::ptr::from_ref(&$name).cast_mut().cast(),
                    },
                });
        };
    };
}
#[doc(hidden)]
pub(crate) use register;

/// The operations for a parameter of this type.
#[doc(hidden)]
pub(crate) const fn ops_of<P: Param>(_param: &'static P) -> *const bindings::kernel_param_ops {
    &P::OPS
}

/// A type of parameter.
///
/// # Safety
///
/// The callbacks in `OPS` must take a `kernel_param` whose `arg` is a `&'static Self`.
#[doc(hidden)]
pub(crate) unsafe trait Param: Sync + Sized + 'static {
    /// How C sets and shows it.
    const OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
        flags: 0,
        set: Some(set_callback::<Self>),
        get: Some(get_callback::<Self>),
        free: None,
    };

    /// Sets the parameter from what was written, or from the command line of `insmod`.
    fn set(&self, text: &CStr) -> Result;

    /// Writes the value and a newline.
    fn show(&self, out: &mut Page<'_>) -> Result;
}

/// # Safety
///
/// `param` must be valid with `arg` a `&'static P`, and `text` null or a string.
unsafe extern "C" fn set_callback<P: Param>(
    text: *const c_char,
    param: *const bindings::kernel_param,
) -> c_int {
    kernel::error::from_result(|| {
        if text.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: By the safety requirement.
        let this = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<P>() };
        // SAFETY: By the safety requirement; it is valid during this call.
        this.set(unsafe { CStr::from_char_ptr(text) })?;
        Ok(0)
    })
}

/// # Safety
///
/// `param` must be valid with `arg` a `&'static P`, and `out` a page that can be written.
unsafe extern "C" fn get_callback<P: Param>(
    out: *mut c_char,
    param: *const bindings::kernel_param,
) -> c_int {
    // SAFETY: By the safety requirement.
    let this = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<P>() };
    // SAFETY: By the safety requirement; the page was initialised by its allocation in sysfs, and
    // nobody else has it during this call.
    let bytes = unsafe { core::slice::from_raw_parts_mut(out.cast::<u8>(), PAGE_SIZE) };
    kernel::error::from_result(|| {
        let mut page = Page { bytes, len: 0 };
        this.show(&mut page)?;
        // CAST: At most a page.
        Ok(page.len as c_int)
    })
}

/// Where the text of a parameter goes: as much as a page holds, the rest is cut off.
pub(crate) struct Page<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Write for Page<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
            // OVERFLOW: At most the length of the slice.
            self.len += 1;
        }
        Ok(())
    }
}

/// An unsigned parameter within bounds. Made by [`module_param_u32!`].
pub(crate) struct U32 {
    value: Atomic<u32>,
    min: u32,
    max: u32,
}

impl U32 {
    #[doc(hidden)]
    pub(crate) const fn new(default: u32, range: core::ops::RangeInclusive<u32>) -> Self {
        assert!(*range.start() <= default && default <= *range.end());
        Self {
            value: Atomic::new(default),
            min: *range.start(),
            max: *range.end(),
        }
    }

    /// The value at this moment. Any context.
    #[inline]
    pub(crate) fn get(&self) -> u32 {
        self.value.load(Relaxed)
    }
}

// SAFETY: `OPS` is the default one.
unsafe impl Param for U32 {
    fn set(&self, text: &CStr) -> Result {
        let mut value = 0;
        // SAFETY: `text` is a string, and `value` can be written.
        kernel::error::to_result(unsafe {
            bindings::kstrtouint(text.as_char_ptr(), 0, &mut value)
        })?;
        if !(self.min..=self.max).contains(&value) {
            return Err(ERANGE);
        }
        self.value.store(value, Relaxed);
        Ok(())
    }

    fn show(&self, out: &mut Page<'_>) -> Result {
        writeln!(out, "{}", self.get())?;
        Ok(())
    }
}

/// A yes-or-no parameter. Made by [`module_param_bool!`].
pub(crate) struct Bool(Atomic<u32>);

impl Bool {
    #[doc(hidden)]
    pub(crate) const fn new(default: bool) -> Self {
        Self(Atomic::new(default as u32))
    }

    /// The value at this moment. Any context.
    #[inline]
    pub(crate) fn get(&self) -> bool {
        self.0.load(Relaxed) != 0
    }
}

// SAFETY: `OPS` is the default one.
unsafe impl Param for Bool {
    fn set(&self, text: &CStr) -> Result {
        let mut value = false;
        // SAFETY: `text` is a string, and `value` can be written.
        kernel::error::to_result(unsafe { bindings::kstrtobool(text.as_char_ptr(), &mut value) })?;
        self.0.store(value.into(), Relaxed);
        Ok(())
    }

    fn show(&self, out: &mut Page<'_>) -> Result {
        writeln!(out, "{}", if self.get() { 'Y' } else { 'N' })?;
        Ok(())
    }
}

/// A parameter that is one of a few words. Made by [`module_param_choice!`].
pub(crate) struct Choice {
    words: &'static [&'static str],
    value: Atomic<usize>,
}

impl Choice {
    #[doc(hidden)]
    pub(crate) const fn new(words: &'static [&'static str], default: usize) -> Self {
        assert!(default < words.len());
        Self {
            words,
            value: Atomic::new(default),
        }
    }

    /// The index of the word at this moment. Any context.
    #[inline]
    pub(crate) fn get(&self) -> usize {
        self.value.load(Relaxed)
    }
}

// SAFETY: `OPS` is the default one.
unsafe impl Param for Choice {
    fn set(&self, text: &CStr) -> Result {
        let text = text.to_bytes().trim_ascii();
        let index = self.words.iter().position(|word| word.as_bytes() == text);
        self.value.store(index.ok_or(EINVAL)?, Relaxed);
        Ok(())
    }

    fn show(&self, out: &mut Page<'_>) -> Result {
        let word = self.words.get(self.get()).copied().unwrap_or_default();
        writeln!(out, "{word}")?;
        Ok(())
    }
}

/// A parameter that a function shows. Made by [`module_param_text!`].
pub(crate) struct Text(fn(&mut Page<'_>) -> Result);

impl Text {
    #[doc(hidden)]
    pub(crate) const fn new(show: fn(&mut Page<'_>) -> Result) -> Self {
        Self(show)
    }
}

// SAFETY: `OPS` is the default one.
unsafe impl Param for Text {
    /// Nothing can be set, neither by `insmod`.
    fn set(&self, _text: &CStr) -> Result {
        Err(EPERM)
    }

    fn show(&self, out: &mut Page<'_>) -> Result {
        (self.0)(out)
    }
}
