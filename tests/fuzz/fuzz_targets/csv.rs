#![no_main]
spin_fuzz::reader!("csv");
