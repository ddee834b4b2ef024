// SPDX-License-Identifier: GPL-2.0

//! Sockets pin the module that the table names: it is the one that the code is in.

use crate::ext::net::vsock::{
    Datagrams,
    Table,
    Transport, //
};
use kernel::prelude::*;

fn tables<C: Transport, D: Datagrams>() -> (Table<C>, Table<D>) {
    (
        Table::connections(),                      //+
        Table::datagrams(),                        //+
        Table::connections(core::ptr::null_mut()), //~ E0061 this function takes 0 arguments
        Table::datagrams(core::ptr::null_mut()),   //~ E0061 this function takes 0 arguments
    )
}
