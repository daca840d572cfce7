#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| lmdb_images_fuzz::page_token::run(data));
