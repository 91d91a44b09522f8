//! What a topic tells of its sender, by a pattern from the configuration.

use std::fmt;
use std::str::FromStr;

use crate::model::Domain;

/// Where a topic names its sender: `sensors/{kind}/{device}/data`. A level is a literal, `{device}`, `{kind}`, `{domain}`
/// or `+` for any; a last `#` stands for any further levels. The empty pattern takes the last level for the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPattern(Vec<Level>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(String),
    Any,
    Rest,
    Device,
    Kind,
    Domain,
}

/// What a topic names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicNames<'a> {
    /// The device, as written.
    pub device: Option<&'a str>,
    /// What sort of device, as written.
    pub kind: Option<&'a str>,
    /// Its part of city life.
    pub domain: Option<Domain>,
}

/// Not a pattern of topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is a text, +, {{device}}, {{kind}} or {{domain}}, each at most once, and # can only be the last")]
pub struct InvalidPattern;

impl FromStr for TopicPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let mut levels = Vec::new();
        for level in text.split('/') {
            let level = match level {
                "{device}" => Level::Device,
                "{kind}" => Level::Kind,
                "{domain}" => Level::Domain,
                "+" => Level::Any,
                "#" => Level::Rest,
                literal if literal.contains(['{', '}', '+', '#']) => return Err(InvalidPattern),
                literal => Level::Literal(literal.to_owned()),
            };
            let is_name = matches!(level, Level::Device | Level::Kind | Level::Domain);
            if levels.last() == Some(&Level::Rest) || (is_name && levels.contains(&level)) {
                return Err(InvalidPattern);
            }
            levels.push(level);
        }
        Ok(Self(levels))
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, level) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            let text = match level {
                Level::Literal(text) => text,
                Level::Any => "+",
                Level::Rest => "#",
                Level::Device => "{device}",
                Level::Kind => "{kind}",
                Level::Domain => "{domain}",
            };
            write!(formatter, "{separator}{text}")?;
        }
        Ok(())
    }
}

impl TopicPattern {
    /// What a topic names; nothing where it does not fit the pattern.
    pub fn find<'a>(&self, topic: &'a str) -> TopicNames<'a> {
        if self.0.is_empty() {
            return TopicNames { device: topic.rsplit('/').next().filter(|level| !level.is_empty()), ..TopicNames::default() };
        }
        let mut names = TopicNames::default();
        let mut levels = topic.split('/');
        for expected in &self.0 {
            if *expected == Level::Rest {
                return names;
            }
            let Some(level) = levels.next() else { return TopicNames::default() };
            match expected {
                Level::Literal(text) if text != level => return TopicNames::default(),
                Level::Device => names.device = Some(level).filter(|level| !level.is_empty()),
                Level::Kind => names.kind = Some(level).filter(|level| !level.is_empty()),
                Level::Domain => names.domain = Domain::parse(level),
                Level::Literal(_) | Level::Any | Level::Rest => {}
            }
        }
        if levels.next().is_none() { names } else { TopicNames::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, topic: &str, device: Option<&str>, kind: Option<&str>, domain: Option<Domain>) {
        let pattern = if pattern.is_empty() { TopicPattern::default() } else { pattern.parse().unwrap() };
        assert_eq!(pattern.find(topic), TopicNames { device, kind, domain }, "{topic}");
    }

    #[test]
    fn a_topic_names_what_its_pattern_says() {
        check("", "a/b/c", Some("c"), None, None);
        check("", "a/b/", None, None, None);
        check("s/{kind}/{device}/data", "s/air/7/data", Some("7"), Some("air"), None);
        check("s/{kind}/{device}/data", "s/air/7", None, None, None);
        check("s/{kind}/{device}/data", "s/air/7/data/x", None, None, None);
        check("+/{domain}/{device}/#", "x/energy/7/a/b", Some("7"), None, Some(Domain::Energy));
        check("+/{device}", "/", None, None, None);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["{device}/{device}", "#/a", "a{device}", "{what}", "a+/b"] {
            assert_eq!(text.parse::<TopicPattern>(), Err(InvalidPattern), "{text}");
        }
        assert_eq!("a/{kind}/+/{device}/#".parse::<TopicPattern>().unwrap().to_string(), "a/{kind}/+/{device}/#");
    }
}
