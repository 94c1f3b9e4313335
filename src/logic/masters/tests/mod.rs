//! Tests of the membership policy: the simulation of whole clusters.

mod sim;
