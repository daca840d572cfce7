//! stub
pub const SIZE_LIMIT: usize = 10<<20;
pub fn compile(p:&[u8], l: usize)->Result<regex::Regex,String>{
 regex::RegexBuilder::new(std::str::from_utf8(p).map_err(|e|e.to_string())?).size_limit(l).build().map_err(|e|e.to_string())
}
