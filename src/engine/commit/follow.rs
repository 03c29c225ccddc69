//! Waiting for batches as a reader of the log does: for what is published, not for one's own write.
//!
//! Who waits says for which sequence number, under the lock under which writers publish. So no
//! wake-up is lost, a writer pays for one look at what lies under its lock anyway, and nobody is
//! woken for what he does not wait for.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use crate::base::seqno::SeqNo;
use crate::engine::commit::CommitState;
use crate::engine::commit::Publish;

/// How much of the log a reader of it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Offer {
    /// What is visible and on stable storage: no crash takes it back.
    #[default]
    Durable,
    /// What is visible.
    Visible,
}

/// The least sequence numbers that somebody waits for: to be visible, and to be durable too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Following {
    visible: u64,
    durable: u64,
}

impl Default for Following {
    fn default() -> Following {
        Following { visible: u64::MAX, durable: u64::MAX }
    }
}

impl Following {
    #[inline]
    pub(super) fn anybody(&self) -> bool {
        self.visible.min(self.durable) != u64::MAX
    }
}

impl CommitState {
    /// The last sequence number that is offered.
    pub(crate) fn offered(&self, offer: Offer) -> SeqNo {
        let visible = self.visible.load(Acquire);
        SeqNo::new(match offer {
            Offer::Durable => visible.min(self.synced.load(Acquire)),
            Offer::Visible => visible,
        })
    }

    /// Wakes those that wait for what is there now. They say anew what they wait for.
    #[cold]
    pub(super) fn wake_followers(&self, publish: &mut Publish) {
        let following = publish.following;
        if following.visible <= self.offered(Offer::Visible).get()
            || following.durable <= self.offered(Offer::Durable).get()
        {
            publish.following = Following::default();
            self.followed.notify_all();
        }
    }

    /// Waits until `next` is offered, or until `is_over`, which changes before
    /// [`CommitState::wake_all`] is called; true if neither came within `limit`. May return earlier.
    pub(crate) fn wait_offered(
        &self,
        next: SeqNo,
        offer: Offer,
        limit: Duration,
        is_over: impl Fn() -> bool,
    ) -> bool {
        let mut publish = self.publish.lock();
        if self.offered(offer) >= next || is_over() {
            return false;
        }
        let following = &mut publish.following;
        let wanted = match offer {
            Offer::Durable => &mut following.durable,
            Offer::Visible => &mut following.visible,
        };
        *wanted = (*wanted).min(next.get());
        self.followed.wait_for(&mut publish, limit).timed_out()
    }
}
