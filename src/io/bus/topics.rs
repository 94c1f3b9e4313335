//! Names of topics, and which of them a board may use.
//!
//! Everything lies under `kumquat/<cluster>/`: `leader` (retained), `all/...` for everybody, and per
//! board `nodes/<node>/up/{hello,beat,status,will}` and
//! `nodes/<node>/down/{desired,command,beat,net,tokens}`;
//! `nodes/<node>/audit` is a master's, for people who read it at a broker of theirs.

use model::wire::MessageKind;

/// The last levels that a board publishes to.
const UP: [&str; 4] = ["hello", "beat", "status", WILL];
const WILL: &str = "will";
const AUDIT: &str = "audit";

/// The topics of one cluster.
#[derive(Clone, Debug)]
pub struct Topics {
    /// `kumquat/<cluster>/`.
    root: String,
}

impl Topics {
    /// Of the cluster with this name.
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("kumquat/{cluster}/") }
    }

    /// The signed leader record, retained.
    pub fn leader(&self) -> String {
        format!("{}leader", self.root)
    }

    /// Filter of what everybody hears.
    pub fn all(&self) -> String {
        format!("{}all/#", self.root)
    }

    /// Where a master tells who wrote what, in plain text.
    pub fn audit(&self, node: &str) -> String {
        format!("{}nodes/{node}/{AUDIT}", self.root)
    }

    /// Whether it is such a topic.
    pub fn is_audit(&self, topic: &str) -> bool {
        let node = topic.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix("nodes/"));
        node.and_then(|rest| rest.split_once('/')).is_some_and(|(_, leaf)| leaf == AUDIT)
    }

    /// What everybody hears of the network.
    pub fn net(&self) -> String {
        format!("{}all/net", self.root)
    }

    /// Where a board sends messages of this kind; `None` for kinds that boards do not send.
    pub fn up(&self, node: &str, kind: MessageKind) -> Option<String> {
        let leaf = match kind {
            MessageKind::Hello => "hello",
            MessageKind::BeatUp => "beat",
            // A broker of version 0.2.0 ends the connection of whoever publishes elsewhere.
            MessageKind::Status | MessageKind::TokenAsk => "status",
            _ => return None,
        };
        Some(format!("{}nodes/{node}/up/{leaf}", self.root))
    }

    /// What the broker sends in place of a board that vanished.
    pub fn will(&self, node: &str) -> String {
        format!("{}nodes/{node}/up/{WILL}", self.root)
    }

    /// Filter of what all boards send.
    pub fn up_of_all(&self) -> String {
        format!("{}nodes/+/up/#", self.root)
    }

    /// Where messages of this kind go to a board; `None` for kinds that masters do not send.
    pub fn down(&self, node: &str, kind: MessageKind) -> Option<String> {
        let leaf = match kind {
            MessageKind::Desired | MessageKind::Fetch => "desired",
            MessageKind::Command => "command",
            MessageKind::BeatDown => "beat",
            MessageKind::Net => "net",
            MessageKind::Tokens => "tokens",
            _ => return None,
        };
        Some(format!("{}nodes/{node}/down/{leaf}", self.root))
    }

    /// Filter of what a board is sent.
    pub fn down_of(&self, node: &str) -> String {
        format!("{}nodes/{node}/down/#", self.root)
    }

    /// The board that published to this topic, and whether it is its will.
    pub fn board_of<'a>(&self, topic: &'a str) -> Option<(&'a str, bool)> {
        let (node, leaf) =
            topic.strip_prefix(&self.root)?.strip_prefix("nodes/")?.split_once("/up/")?;
        UP.contains(&leaf).then_some((node, leaf == WILL))
    }

    /// The board that something is sent to by this topic.
    pub fn board_below<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let (node, _) =
            topic.strip_prefix(&self.root)?.strip_prefix("nodes/")?.split_once("/down/")?;
        Some(node)
    }

    /// Whether a board may publish there: to the topics under its own `up/` only.
    pub fn may_publish(&self, node: &str, topic: &str) -> bool {
        self.board_of(topic).is_some_and(|(of, _)| of == node)
    }

    /// Whether a board may subscribe to that: `leader`, `all/...` and its own `down/...` only.
    pub fn may_subscribe(&self, node: &str, filter: &str) -> bool {
        let Some(rest) = filter.strip_prefix(&self.root) else { return false };
        let own = rest.strip_prefix("nodes/").and_then(|rest| rest.strip_prefix(node));
        rest == "leader"
            || rest.starts_with("all/")
            || own.is_some_and(|rest| rest.starts_with("/down/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_has_its_own_topics_and_no_others() {
        let topics = Topics::new("home");
        let mine = ["hello", "beat", "status", "will"];
        for leaf in mine {
            assert!(topics.may_publish("pi-1", &format!("kumquat/home/nodes/pi-1/up/{leaf}")));
        }
        let others = [
            "kumquat/home/nodes/pi-2/up/hello",
            "kumquat/home/nodes/pi-1/down/desired",
            "kumquat/home/nodes/pi-1/up/hello/more",
            "kumquat/home/nodes/pi-1/up/",
            "kumquat/home/nodes/pi-1/x/up/hello",
            "kumquat/home/nodes/pi-1/up/x/up/hello",
            "kumquat/home/leader",
            "kumquat/home/all/net",
            "kumquat/other/nodes/pi-1/up/hello",
            "kumquat/homeless/nodes/pi-1/up/hello",
            "$SYS/broker",
            "nodes/pi-1/up/hello",
            "",
        ];
        for topic in others {
            assert!(!topics.may_publish("pi-1", topic), "{topic}");
        }
        let allowed = ["leader", "all/#", "all/net", "nodes/pi-1/down/#", "nodes/pi-1/down/beat"];
        for filter in allowed {
            assert!(topics.may_subscribe("pi-1", &format!("kumquat/home/{filter}")), "{filter}");
        }
        let refused = [
            "#",
            "+/home/leader",
            "kumquat/#",
            "kumquat/+/leader",
            "kumquat/home/#",
            "kumquat/home/+",
            "kumquat/home/+/net",
            "kumquat/home/nodes/#",
            "kumquat/home/nodes/+/down/#",
            "kumquat/home/nodes/pi-2/down/#",
            "kumquat/home/nodes/pi-11/down/#",
            "kumquat/home/nodes/pi-1/#",
            "kumquat/home/nodes/pi-1/up/#",
            "kumquat/home/nodes/pi-1/+/beat",
            "kumquat/other/leader",
            "$SYS/#",
        ];
        for filter in refused {
            assert!(!topics.may_subscribe("pi-1", filter), "{filter}");
        }
    }

    #[test]
    fn both_ends_mean_the_same_topics() {
        let topics = Topics::new("home");
        let up = [MessageKind::Hello, MessageKind::BeatUp, MessageKind::Status];
        for kind in up.into_iter().chain([MessageKind::TokenAsk]) {
            let topic = topics.up("pi-1", kind).expect("boards send it");
            assert_eq!(topics.board_of(&topic), Some(("pi-1", false)));
            assert_eq!(topics.down("pi-1", kind), None);
        }
        assert_eq!(topics.board_of(&topics.will("pi-1")), Some(("pi-1", true)));
        let down = [MessageKind::Desired, MessageKind::Command, MessageKind::BeatDown];
        for kind in down.into_iter().chain([MessageKind::Fetch, MessageKind::Tokens]) {
            let topic = topics.down("pi-1", kind).expect("masters send it");
            assert!(topic.starts_with(topics.down_of("pi-1").trim_end_matches('#')), "{topic}");
            assert_eq!(topics.board_of(&topic), None);
        }
        assert!(topics.may_subscribe("pi-1", &topics.leader()));
        assert!(topics.may_subscribe("pi-1", &topics.all()));
        assert!(topics.may_subscribe("pi-1", &topics.down_of("pi-1")));
    }
}
