#![no_main]
spin_fuzz::reader!("run-file");
