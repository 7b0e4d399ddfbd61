#![no_main]
spin_fuzz::reader!("journal");
