//! Clusters of several masters on one switch: real boards, real wires, real faults.

mod backup;
mod bed;
mod cell;
mod clocks;
mod deposed;
mod doors;
mod failover;
mod histories;
mod keys;
mod last_copy;
mod leave;
mod membership;
mod moved;
mod rekey;
mod three;
mod two;
mod workload;

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/clients.rs"]
mod clients;
#[path = "../harness/disk.rs"]
mod disk;
#[path = "../harness/figures.rs"]
mod figures;
#[path = "../harness/forgery.rs"]
mod forgery;
#[path = "../harness/history.rs"]
mod history;
#[path = "../harness/kubectl.rs"]
mod kubectl;
#[path = "../harness/linearizable.rs"]
mod linearizable;
#[path = "../harness/loss.rs"]
mod loss;
#[path = "../harness/reigns.rs"]
mod reigns;
#[path = "../harness/switch.rs"]
mod switch;
#[path = "../harness/walk.rs"]
mod walk;
#[path = "../harness/writers.rs"]
mod writers;
#[path = "../harness/wrong_clocks.rs"]
mod wrong_clocks;
