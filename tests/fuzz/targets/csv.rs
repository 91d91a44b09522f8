#![no_main]

use conca_fuzz::decode::Decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| conca_fuzz::decode_all(Decoder::Csv, data));
