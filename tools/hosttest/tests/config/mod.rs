// SPDX-License-Identifier: GPL-2.0

//! How long the properties are tried.

use proptest::test_runner::Config;

/// `PROPTEST_CASES` cases if that is set, for a long run; else `few`, for a run of seconds.
pub(crate) fn cases(few: u32) -> Config {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        Config::default()
    } else {
        Config::with_cases(few)
    }
}
