#![no_main]
spin_fuzz::reader!("task-file");
