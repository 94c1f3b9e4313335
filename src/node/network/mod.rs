//! A board's network: what it hears of services and boards, and what it makes of it.
