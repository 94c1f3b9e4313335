//! Rules as text, for people and for tests; close to what `nft` prints.

use std::fmt;

use super::program::{Action, Chain, Key, Match, Rule, Set, Verdict};
use super::{Backends, Frontend, Rules};

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.address, self.port, self.protocol)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Accept => f.write_str("accept"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |yes: &bool| if *yes { "" } else { "!= " };
        match self {
            Self::Source(block, yes) => write!(f, "ip saddr {}{block}", not(yes)),
            Self::Destination(block, yes) => write!(f, "ip daddr {}{block}", not(yes)),
            Self::SourceIn(set) => write!(f, "ip saddr @{set}"),
            Self::DestinationIn(set) => write!(f, "ip daddr @{set}"),
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::Ports(first, last) if first == last => write!(f, "dport {first}"),
            Self::Ports(first, last) => write!(f, "dport {first}-{last}"),
            Self::DestinationIsHere => f.write_str("daddr here"),
            Self::Established => f.write_str("established"),
            Self::Translated => f.write_str("translated"),
            Self::Hairpin => f.write_str("@hairpin"),
            Self::Refused { any: false } => f.write_str("@refused"),
            Self::Refused { any: true } => f.write_str("any @refused"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Reset => f.write_str("reset"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::SourceNat(address) => write!(f, "snat {address}"),
            Self::Serve { outside, any } => {
                let map = if *outside { "outside" } else { "services" };
                write!(f, "{}serve @{map}", if *any { "any " } else { "" })
            }
            Self::Guard => f.write_str("@guarded"),
            Self::Egress => f.write_str("@egress"),
            Self::Ingress => f.write_str("@ingress"),
            Self::Pick(_) => f.write_str("pick"),
            Self::Stay(_) => f.write_str("stay"),
            Self::Remember { set, any, seconds } => {
                let any = if *any { "any " } else { "" };
                write!(f, "{any}@{set} remember for {seconds} s")
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.guard.iter().map(|guard| format!("({guard})")));
        words.extend(self.refused.then(|| "refused".to_owned()));
        let sides = [(self.inside, &self.endpoints), (self.outside, &self.local)];
        for (choice, targets) in sides {
            let Some(choice) = choice else { continue };
            let targets: Vec<_> = targets.iter().map(|(at, port)| format!("{at}:{port}")).collect();
            words.push(format!("{choice} [{}]", targets.join(" ")));
        }
        f.write_str(&words.join(" "))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (frontend, backends) in &self.services {
            writeln!(f, "{frontend}: {backends}")?;
        }
        for (name, Set { elements, .. }) in &self.program.sets {
            let element = |(key, verdict): (&Key, &Option<Verdict>)| match verdict {
                Some(verdict) => format!("{key}: {verdict}"),
                None => key.to_string(),
            };
            let elements: Vec<_> = elements.iter().map(element).collect();
            writeln!(f, "set {name} {{ {} }}", elements.join(", "))?;
        }
        for (name, Chain { hook, rules }) in &self.program.chains {
            match hook {
                Some(hook) => writeln!(f, "chain {name} ({hook:?})")?,
                None => writeln!(f, "chain {name}")?,
            }
            for rule in rules {
                writeln!(f, "    {rule}")?;
            }
        }
        Ok(())
    }
}
