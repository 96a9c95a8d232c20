package record

import (
	"context"
	"time"
)

// Kinds of approvals.
const (
	// ApproveJob lets the job in Subject run.
	ApproveJob = "job"
	// ApproveOperator lets the operator in Subject be invited.
	ApproveOperator = "operator"
	// ApproveSetting lets a setting be changed: Subject is NAME=VALUE.
	ApproveSetting = "setting"
	// ApproveTombstone lets the tombstones of the device in Subject (an ID) be lifted.
	ApproveTombstone = "tombstone"
	// ApproveGrant lets the device in Subject (an ID) be granted a new key, which ends its
	// certificates.
	ApproveGrant = "grant"
	// ReviewJob is the review of the job in Subject, which a break-glass has let run.
	ReviewJob = "review"
)

// Approval is one operator's request for another's consent.
type Approval struct {
	ID   string
	Kind string
	// Subject is what it is about, as the kind says; Why is the requester's reason.
	Subject string
	Why     string
	// Requester and Approver are operators; Approver is empty until there is one.
	Requester string
	Requested time.Time
	// Expires is when the request ends, given or not; zero for a review, which does not.
	Expires  time.Time
	Approver string
	Approved time.Time
}

// Approvals is how two operators do what one alone may not.
type Approvals interface {
	// RequestApproval records a request, or finds the requester's own open one for the
	// same kind and subject.
	RequestApproval(ctx context.Context, a Approval, e Event) (Approval, error)
	// Approve gives an operator's consent. With it the job of an ApproveJob runs, and that
	// of a ReviewJob has no end any more. ErrNotFound if there is no such request;
	// ErrConflict if the approver is the requester or is disabled, if the requester is
	// disabled, if it has expired or was approved before, or if the job waits no more.
	Approve(ctx context.Context, id, operator string, at time.Time, e Event) (Approval, error)
	// GivenApproval finds the requester's newest approval of this kind and subject that an
	// act's event may spend (Event.Spends): it was approved, has not expired and was not spent,
	// and its approver is not disabled. ErrNotFound if there is none.
	GivenApproval(ctx context.Context, kind, subject, requester string, at time.Time) (Approval, error)
	// EndApprovals ends all requests and approvals that were not spent, on any clock; reviews
	// stay. It is for a restore that lost which were.
	EndApprovals(ctx context.Context, at time.Time, e Event) error
	Approval(ctx context.Context, id string) (Approval, error)
	// ApprovalsOf lists the requests and reviews about one subject, oldest first.
	ApprovalsOf(ctx context.Context, kind, subject string) ([]Approval, error)
	// OpenApprovals lists requests and reviews that wait for an approver, oldest first.
	OpenApprovals(ctx context.Context, at time.Time) ([]Approval, error)
}

// Alerts is what operators must hear of: events with Alert set.
type Alerts interface {
	// Alerts lists the alerts that an operator has not seen and did not cause, oldest
	// first, at most limit.
	Alerts(ctx context.Context, operator string, limit int) ([]Event, error)
	// SeeAlerts notes that an operator has seen the alerts up to a sequence number.
	SeeAlerts(ctx context.Context, operator string, upTo int64) error
}

// Settings are what operators may change while the server runs.
type Settings interface {
	// Setting is a value by its name; ErrNotFound if it was never set.
	Setting(ctx context.Context, name string) (string, error)
	SetSetting(ctx context.Context, name, value string, e Event) error
}
