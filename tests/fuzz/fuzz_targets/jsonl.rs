#![no_main]
spin_fuzz::reader!("jsonl");
